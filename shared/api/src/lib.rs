//! The kinds of Ahoi: spec, status and validation.
//!
//! A platform team writes [`Customer`], [`Plan`], [`DatabaseServer`] and [`PgBouncer`]; the controllers write the rest.
//! The documentation of the fields is what `kubectl explain` prints, and the validation rules are evaluated by the API
//! server itself (CEL), so that invalid input is refused even if no controller runs.
//!
//! | kind | scope | owner |
//! |---|---|---|
//! | [`Customer`], [`Plan`] | cluster | `operators/customer` |
//! | [`CustomerNamespace`] | cluster | `operators/namespace` |
//! | [`DatabaseServer`] (cluster), [`Database`] | namespaced | `operators/database` |
//! | [`PgBouncer`], [`ConnectionPool`] | namespaced | `operators/pgbouncer` |
//! | [`Scheduler`] | namespaced | `operators/scheduler` |

pub mod binding;
mod conditioned;
mod conditions;
mod crds;
mod credentials;
mod customer;
mod customer_namespace;
mod database;
mod database_server;
mod features;
mod kinds;
mod maintenance;
mod names;
mod pgbouncer;
mod plan;
mod pooler_login;
mod reasons;
mod scheduler;
mod shared;
mod size;
mod tls;

pub use conditioned::{Condition, Conditioned, Object};
pub use conditions::NO_TRANSITION;
pub use crds::crds;
pub use credentials::*;
pub use customer::*;
pub use customer_namespace::*;
pub use database::*;
pub use database_server::*;
pub use features::*;
pub use maintenance::*;
pub use names::*;
pub use pgbouncer::*;
pub use plan::*;
pub use pooler_login::PoolerLogin;
pub use reasons::{EventReason, KUBERNETES_REASONS, Reason, reasons_page};
pub use scheduler::*;
pub use shared::*;
pub use size::{Size, SizeError};
pub use tls::*;
