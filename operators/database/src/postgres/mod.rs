//! PostgreSQL: connections to servers, what is on them, and the steps from there to what should be. Knows SQL and no Kubernetes.

pub mod alike;
pub mod connections;
pub mod desired;
pub mod execute;
pub mod freeze;
pub mod lists;
pub mod model;
pub mod names;
pub mod observe;
pub mod ownership;
pub mod parameters;
pub mod plan;
pub mod prepare;
pub mod read_only;
pub mod scram;
pub mod server;
pub mod step;
pub mod tls;
