//! Planned maintenance of a `DatabaseServer`: pgbouncer holds its clients while an administrator restarts PostgreSQL.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The condition of a DatabaseServer to wait for before PostgreSQL is restarted.
pub const READY_TO_RESTART: &str = "ReadyToRestart";

/// Query for [`MaintenanceStatus::server_started`]. The answer stays the same until PostgreSQL restarts.
pub const SERVER_STARTED: &str =
    r#"SELECT to_char(pg_postmaster_start_time() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')"#;

/// A request to restart PostgreSQL without a failed query.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Maintenance {
    /// Starts a maintenance each time this value changes. Any string, for example a date or a ticket number. All
    /// pgbouncer processes let the open transactions of the server end and hold their clients. When all clients are
    /// held, the condition ReadyToRestart is True: restart PostgreSQL. The clients continue when PostgreSQL is back,
    /// when timeoutSeconds have passed, or when `spec.maintenance` is removed.
    #[schemars(length(min = 1, max = 128), regex(pattern = r"^[^\x00-\x1f\x7f]+$"))]
    pub request: String,
    /// Maximum time, in seconds from the request, for which clients are held. Default 55. pgbouncer fails a login that
    /// waits longer than client_login_timeout (60 seconds) and a query that waits longer than query_wait_timeout (120
    /// seconds), unless the parameters of the fleet set other values.
    #[serde(default = "default_timeout")]
    #[schemars(range(min = 5, max = 110))]
    pub timeout_seconds: i32,
}

fn default_timeout() -> i32 {
    55
}

/// State of the last maintenance request. Written by the database controller and followed by every agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MaintenanceStatus {
    /// Value of `spec.maintenance.request` that this state belongs to.
    pub request: String,
    /// State of the maintenance.
    pub state: MaintenanceState,
    /// Time at which clients continue at the latest.
    pub until: Time,
    /// Start time of PostgreSQL at the time of the request, as the server reports it. Another time means that
    /// PostgreSQL was restarted.
    pub server_started: String,
    /// Number of sessions that do not use pgbouncer, counted when ReadyToRestart became True. The restart ends them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub direct_sessions: Option<i64>,
}

/// State of a maintenance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum MaintenanceState {
    /// Clients start no new transactions, and open transactions end.
    Pausing,
    /// All clients are held: restart PostgreSQL now.
    ReadyToRestart,
    /// PostgreSQL was restarted, and clients continue.
    Done,
    /// PostgreSQL was not restarted in time, and clients continue.
    TimedOut,
}

impl MaintenanceState {
    /// Whether clients are held.
    #[must_use]
    pub fn is_underway(self) -> bool {
        matches!(self, MaintenanceState::Pausing | MaintenanceState::ReadyToRestart)
    }
}

/// A server whose clients one pgbouncer process holds.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HeldServer {
    /// Name of the DatabaseServer.
    pub server: String,
    /// Why the clients are held.
    pub state: HoldState,
    /// Maintenance request because of which the clients are held.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<String>,
}

/// Why a pgbouncer process holds the clients of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum HoldState {
    /// The server is unreachable.
    Unreachable,
    /// Maintenance: transactions are still open.
    Pausing,
    /// Maintenance: this process has no connection to the server.
    Quiet,
}
