//! The rig of the end-to-end tests: access to a running cluster with Ahoi installed, through the interfaces that users have
//! (API server, kubectl, PostgreSQL and pgbouncer over the network).
//!
//! `e2e/run` starts the cluster and runs the tests with KUBECONFIG, KUBECTL and AUDIT_LOG set. Waits are watches with deadlines,
//! not sleeps. A wait that times out prints the objects, events and logs that explain it.

pub mod accounts;
pub mod agents;
pub mod audit;
pub mod backup;
pub mod cluster;
pub mod controllers;
pub mod customers;
pub mod diagnose;
pub mod fencing;
pub mod kinds;
mod kubectl;
pub mod latency;
pub mod ledger;
pub mod messages;
pub mod postgres;
pub mod probes;
pub mod processes;
pub mod refusal;
pub mod servers;
pub mod strangers;
mod system;
pub mod tls;

pub use cluster::Cluster;
pub use system::SYSTEM;
