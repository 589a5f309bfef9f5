//! PostgreSQL: connections to servers, their observed state, and the steps to the desired state. Knows SQL and no Kubernetes.

pub mod connections;
pub mod corrections;
pub mod desired;
pub mod disk;
pub mod execute;
pub mod failure;
pub mod freeze;
pub mod grants;
pub mod lists;
pub mod model;
pub mod names;
pub mod observe;
pub mod ownership;
pub mod parameters;
pub mod plan;
pub mod prepare;
pub mod read_only;
pub mod removal;
pub mod scram;
pub mod server;
pub mod step;
pub mod tls;
