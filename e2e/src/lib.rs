//! What the end-to-end tests of the suite stand on: a running cluster with the suite installed, reached as a user
//! reaches it (API server, kubectl, PostgreSQL and pgbouncer over the network).
//!
//! `e2e/run` starts the cluster and calls the tests with KUBECONFIG, KUBECTL and AUDIT_LOG set. Nothing here sleeps for
//! a result: every wait is a watch with a deadline, and a wait that fails prints what explains it.

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
