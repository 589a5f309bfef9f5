//! From routes to pgbouncer's configuration; all of it pure.

mod parameters;
mod plan;
mod render;
mod tls;
mod validate;

pub use parameters::{check as check_parameters, needing_restart, valid as valid_parameters};
pub use plan::{Implausible, KEPT, Known, Plan, plan};
pub use render::{AUTH_FILE, DATABASES, Files, INI, PEERS, Settings, auth_alias, render};
pub use validate::validate;
