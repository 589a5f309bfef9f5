//! From routes to pgbouncer's configuration; all of it pure.

mod budget;
mod file_logins;
mod headroom;
mod parameters;
mod plan;
mod render;
mod timeouts;
mod tls;
mod tls_values;
mod validate;
mod verifiers;

pub use budget::{Budget, Shares, share};
pub use file_logins::{FileLogins, Lookup};
pub use headroom::Resources;
pub use parameters::{check as check_parameters, needing_restart, valid as valid_parameters};
pub use plan::{Implausible, KEPT, Known, Plan, is_login, plan};
pub use render::{AUTH_FILE, DATABASES, Files, INI, LOGINS, PEERS, Poolers, Settings, auth_alias, render};
pub use validate::validate;
pub use verifiers::Verifiers;
