//! Features of a customer. Customer and Plan have the same types: the Plan has the defaults, and the Customer overrides single fields.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{EnvVar, ResourceRequirements};
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::size::POSITIVE;
use crate::{Credentials, NamespacedRef, PoolMode, Size};

// etcd stores at most 1.5 MiB. The limits of all free texts together are below it, with four bytes for each character, so that a Customer has
// space for its status and can be deleted, which is a write, too.
const SELECTOR: &str = "self.all(k, k.size() <= 317 && self[k].size() <= 63)";
const PARAMETERS: &str = "self.all(k, k.size() <= 128 && self[k].size() <= 1024)";
const COMMAND: &str = "self.map(c, c.size()).sum() <= 32768";
const ENV: &str = "self.map(e, e.name.size() + (has(e.value) ? e.value.size() : 0)).sum() <= 131072";
const JOBS: &str = "self.map(j, j.command.map(c, c.size()).sum()).sum() <= 131072";
const MIGRATION: &str = "self.command.map(c, c.size()).sum() <= 32768";

/// The features of a customer. One that is left out follows the Plan.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new(
    "!(has(self.connectionPool) && has(self.connectionPool.enabled) && self.connectionPool.enabled \
     && has(self.database) && has(self.database.enabled) && !self.database.enabled)",
).message("connectionPool.enabled: a connection pool needs a database; enable database or disable connectionPool"))]
/// Features of a customer. A feature that is unset has the values of the Plan.
pub struct Features {
    /// A PostgreSQL database.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub database: Option<DatabaseFeature>,
    /// A connection pool in a PgBouncer fleet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connection_pool: Option<ConnectionPoolFeature>,
    /// Workers and scheduled jobs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheduler: Option<SchedulerFeature>,
    /// Signed outbound webhooks. Not available yet: the condition WebhooksReady says so while it is enabled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub webhooks: Option<WebhooksFeature>,
    /// Preview environments. Not available yet: the condition PreviewsReady says so while it is enabled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previews: Option<PreviewsFeature>,
}

/// Settings of the feature `database`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct DatabaseFeature {
    /// Whether the customer has a database. Unset: the value of the Plan, or false. Disabling the feature keeps the
    /// data, and enabling it again gives it back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// Maximum size of the database: a number with mb, gb, tb or pb (powers of 1000) or Mi, Gi, Ti or Pi (powers of
    /// 1024), for example 256gb or 1.5tb. A value below the size in force (`status.storageBytes`) is refused. Unset: a
    /// new database has the value of the Plan, or 10Gi; an existing one keeps its size and grows when the Plan raises
    /// its value. Within 60 seconds after the storage is used up, writes are refused with SQLSTATE 53100 until less
    /// than 90 % is used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new(POSITIVE).message("storage must be more than 0"))]
    pub storage: Option<Size>,
    /// Labels that a DatabaseServer must have for this database. Used once: a database stays on its server. Unset: the
    /// value of the Plan, or any server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxProperties" = 16))]
    #[x_kube(validation = Rule::new(SELECTOR).message("a label has at most 317 characters and its value at most 63"))]
    pub server_selector: Option<BTreeMap<String, String>>,
    /// Maximum number of concurrent connections to the database, those of the pool included. Unset: the value of the
    /// Plan, or 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10000))]
    pub connection_limit: Option<i32>,
    /// PostgreSQL parameters of the logins in this database, for example statement_timeout or search_path (a list of
    /// names: `app, public`). Merged by name with those of the Plan.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxProperties" = 32))]
    #[x_kube(validation = Rule::new(PARAMETERS).message("a parameter has at most 128 characters and its value at most 1024"))]
    pub parameters: Option<BTreeMap<String, String>>,
    /// Names of extensions to create. Each must be a trusted extension of the server. An extension that was dropped is
    /// created again within minutes; otherwise the Database is Stalled with the reason ExtensionRefused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32), inner(length(min = 1, max = 63), regex(pattern = r"^[a-z][a-z0-9_-]*$")))]
    pub extensions: Option<Vec<String>>,
    /// When the login and its password are replaced. Each field overrides that of the Plan. Unset: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<Credentials>,
}

/// Settings of the feature `connectionPool`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConnectionPoolFeature {
    /// Whether applications connect through pgbouncer. Unset: the value of the Plan, or that of the feature database.
    /// If false, applications connect to PostgreSQL directly.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// How server connections are shared. Unset: the value of the Plan or of the PgBouncer fleet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool_mode: Option<PoolMode>,
    /// Maximum number of server connections of this customer in each pgbouncer process. Unset: the value of the Plan or
    /// `defaultPoolSize` of the PgBouncer fleet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub pool_size: Option<i32>,
    /// Maximum number of client connections of this customer in each pgbouncer process. Unset: the value of the Plan or
    /// of the PgBouncer fleet, or a fifth of what a process accepts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100000))]
    pub max_client_connections: Option<i32>,
    /// Maximum time of a query, and of a transaction between two queries, in seconds. pgbouncer then disconnects the
    /// client. Unlike statement_timeout, a client cannot raise it. Unset: the value of the Plan or of the PgBouncer
    /// fleet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 604_800))]
    pub query_timeout_seconds: Option<i32>,
    /// Maximum time that a transaction may be idle, in seconds. pgbouncer then disconnects the client. A client cannot
    /// raise it. Unset: the value of the Plan or of the PgBouncer fleet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 604_800))]
    pub idle_transaction_timeout_seconds: Option<i32>,
    /// Replaces the server connections once each time this value changes; open transactions end first. Any string, for
    /// example a date or a ticket number. Set it after a change to tables with prepared statements, which otherwise
    /// fail with "cached plan must not change result type". Unset: no request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub reconnect_request: Option<String>,
    /// PgBouncer fleet with the pool. Unset: the value of the Plan, or the fleet `global` in the namespace of Ahoi.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pg_bouncer_ref: Option<NamespacedRef>,
}

/// Settings of the feature `scheduler`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct SchedulerFeature {
    /// Whether the customer has workers and jobs. Unset: the value of the Plan, or false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// Number of workers. 0 runs jobs and no worker. Unset: the value of the Plan, or 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1000))]
    pub workers: Option<i32>,
    /// Image of the workers, and of jobs that set none. Unset: the value of the Plan.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub image: Option<String>,
    /// Command of the workers. Unset: the value of the Plan, or the command of the image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    #[x_kube(validation = Rule::new(COMMAND).message("the words of command have at most 32768 characters together"))]
    pub command: Option<Vec<String>>,
    /// Environment variables of workers and jobs. Merged by name with those of the Plan.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 100))]
    #[x_kube(validation = Rule::new(ENV).message("names and values of env have at most 131072 characters together"))]
    pub env: Option<Vec<EnvVar>>,
    /// Resource requests and limits of a worker. Unset: the value of the Plan.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,
    /// HTTP endpoint by which a worker reports that it is ready. Unset: the value of the Plan, or a running worker is
    /// ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub readiness: Option<Readiness>,
    /// Scheduled jobs. Merged by name with those of the Plan. At most 50.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(merge_strategy = kube::core::ListMerge::Map(vec!["name".into()]))]
    #[schemars(length(max = 50))]
    #[x_kube(validation = Rule::new(JOBS).message("the commands of all jobs have at most 131072 characters together"))]
    pub jobs: Option<Vec<JobTemplate>>,
    /// Job that must succeed before workers of a new image start, for example a schema migration. It connects to
    /// PostgreSQL directly. The connection pool replaces its server connections after it, so that new workers meet no
    /// prepared statement of the former schema. Unset: the value of the Plan, or no migration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new(MIGRATION).message("the words of migration.command have at most 32768 characters together"))]
    pub migration: Option<Migration>,
}

/// HTTP endpoint by which a worker reports that it is ready: a GET request is answered with a status from 200 to 399.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Readiness {
    /// Path of the request. Default /readyz.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256), regex(pattern = r"^/"))]
    pub path: Option<String>,
    /// Port of the worker.
    #[schemars(range(min = 1, max = 65535))]
    pub port: i32,
}

/// A scheduled job. It becomes a CronJob.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct JobTemplate {
    /// Name of the job and of its CronJob.
    #[schemars(length(min = 1, max = 40), regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,
    /// Schedule in the five fields of cron, for example "0 3 * * *", or as @hourly or @daily.
    #[schemars(length(min = 1, max = 100))]
    pub schedule: String,
    /// Time zone of the schedule, for example Europe/Berlin. Unset: the time zone of the controller manager of
    /// Kubernetes, usually UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    pub time_zone: Option<String>,
    /// Image of the job. Unset: the image of the workers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub image: Option<String>,
    /// Command of the job.
    #[schemars(length(min = 1, max = 64))]
    pub command: Vec<String>,
    /// What happens if the job is due and its last run has not ended. Default Forbid.
    #[serde(default)]
    pub concurrency_policy: ConcurrencyPolicy,
    /// Maximum delay of a run, in seconds. A run that cannot start by then is skipped. Unset: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 10, max = 86400))]
    pub starting_deadline_seconds: Option<i64>,
    /// Maximum duration of a run, in seconds. Unset: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 604_800))]
    pub active_deadline_seconds: Option<i64>,
    /// Number of retries of a failed run. Default 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 20))]
    pub retries: Option<i32>,
    /// Number of successful runs to keep. Default 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 50))]
    pub successful_history: Option<i32>,
    /// Number of failed runs to keep. Default 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 50))]
    pub failed_history: Option<i32>,
}

/// What happens if a job is due and its last run has not ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ConcurrencyPolicy {
    /// Start the new run beside the old one.
    Allow,
    /// Skip the new run.
    #[default]
    Forbid,
    /// End the old run and start the new one.
    Replace,
}

/// A Job that must succeed before workers of a new image start.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Migration {
    /// Command of the migration. It runs in the image of the workers.
    #[schemars(length(min = 1, max = 64))]
    pub command: Vec<String>,
    /// Number of retries of a failed migration. Default 3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 20))]
    pub retries: Option<i32>,
    /// Maximum duration of the migration, in seconds, with retries. Default 600.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 86400))]
    pub active_deadline_seconds: Option<i64>,
}

/// Settings of the feature `webhooks`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WebhooksFeature {
    /// Whether events of the customer are delivered. Not available yet. Unset: the value of the Plan, or false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
}

/// Settings of the feature `previews`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PreviewsFeature {
    /// Whether the customer has preview environments. Not available yet. Unset: the value of the Plan, or false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
}
