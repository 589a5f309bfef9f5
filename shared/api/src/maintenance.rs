//! Planned maintenance of a `DatabaseServer`: its clients wait in the poolers while a person restarts PostgreSQL.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The condition of a DatabaseServer to wait for before PostgreSQL is restarted.
pub const READY_TO_RESTART: &str = "ReadyToRestart";

/// What PostgreSQL is asked for [`MaintenanceStatus::server_started`]: the same text to whoever asks, for as long as it runs.
pub const SERVER_STARTED: &str =
    r#"SELECT to_char(pg_postmaster_start_time() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')"#;

/// A wish to restart PostgreSQL without a failed query.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Maintenance {
    /// Any text that was not the last one, such as the time of the request. Each new one makes the clients of every
    /// PgBouncer wait, once the transactions that run have ended; when all of them wait, the condition ReadyToRestart is
    /// True, and PostgreSQL is to be restarted. They go on by themselves when it is back, when timeoutSeconds are over, or
    /// when the request is taken away.
    #[schemars(length(min = 1, max = 128), regex(pattern = r"^[^\x00-\x1f\x7f]+$"))]
    pub request: String,
    /// How long clients wait at most, counted from the request, until they are served again whether PostgreSQL was
    /// restarted or not. pgbouncer lets a login wait for 60 seconds (client_login_timeout) and a query for 120
    /// (query_wait_timeout) where the fleet's parameters say nothing else: beyond that they fail.
    #[serde(default = "default_timeout")]
    #[schemars(range(min = 5, max = 110))]
    pub timeout_seconds: i32,
}

fn default_timeout() -> i32 {
    55
}

/// How far the maintenance that was requested last is. Written by the database controller, followed by every agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MaintenanceStatus {
    /// The request that this is about.
    pub request: String,
    /// How far it is.
    pub state: MaintenanceState,
    /// When clients are served again at the latest.
    pub until: Time,
    /// When PostgreSQL had been started, as it says itself, at the request: another time means that it was restarted.
    pub server_started: String,
    /// Sessions that do not come through a pooler, when it became ready to restart: the restart ends them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub direct_sessions: Option<i64>,
}

/// How far a maintenance is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum MaintenanceState {
    /// Clients begin nothing new; transactions that run may end.
    Pausing,
    /// Every pooler is quiet: PostgreSQL is to be restarted now.
    ReadyToRestart,
    /// PostgreSQL was restarted.
    Done,
    /// It was not restarted in time, and clients are served again.
    TimedOut,
}

impl MaintenanceState {
    /// Clients wait.
    #[must_use]
    pub fn is_underway(self) -> bool {
        matches!(self, MaintenanceState::Pausing | MaintenanceState::ReadyToRestart)
    }
}

/// A server whose clients wait in one pgbouncer process.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HeldServer {
    /// Name of the DatabaseServer.
    pub server: String,
    /// Why they wait, and how far that is.
    pub state: HoldState,
    /// The request for maintenance that they wait for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<String>,
}

/// Why a process makes the clients of a server wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum HoldState {
    /// The server cannot be reached.
    Unreachable,
    /// Maintenance: transactions still run.
    Pausing,
    /// Maintenance: this process has no connection to the server any more.
    Quiet,
}
