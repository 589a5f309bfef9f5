//! What a customer can have. A Customer and its Plan describe features with the same types: the Plan gives the default
//! of every field, the Customer overrides it.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{EnvVar, ResourceRequirements};
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::size::POSITIVE;
use crate::{Credentials, NamespacedRef, PoolMode, Size};

// Free texts are bounded so that a Customer, which etcd stores in at most 1.5 MiB, has room for its status: one that is larger
// could not be deleted either, since that is a write as well. All of them together are below that also where each character takes
// four bytes.
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
pub struct Features {
    /// A PostgreSQL database of the customer's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub database: Option<DatabaseFeature>,
    /// A place in the global pgbouncer fleet. Follows `database` when nobody says otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connection_pool: Option<ConnectionPoolFeature>,
    /// Workers and scheduled jobs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheduler: Option<SchedulerFeature>,
    /// Signed outbound webhooks. Not available yet: enabling it is remembered and said in its condition.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub webhooks: Option<WebhooksFeature>,
    /// Preview environments. Not available yet: enabling it is remembered and said in its condition.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previews: Option<PreviewsFeature>,
}

/// The feature `database`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct DatabaseFeature {
    /// Whether the customer has a database. Unset follows the Plan, and where that is silent, there is none. Turning it off
    /// keeps the data; turning it on again finds it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// Maximum size of the database: a number and mb, gb, tb, pb (powers of 1000) or Mi, Gi, Ti, Pi (powers of 1024), such as
    /// 256gb or 1.5tb. It can grow; a value below the size in force (status.storageBytes) is refused. Unset: the Plan's, else
    /// 10Gi, when the database is created; after that the size stays, and grows only when the Plan's is raised.
    /// Within 60 seconds after it is used up, writes are refused with SQLSTATE 53100 until less than 90 % is used; see
    /// `spec.storage` of Database.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new(POSITIVE).message("storage must be more than 0"))]
    pub storage: Option<Size>,
    /// Labels of the DatabaseServers the database may be placed on. It stays where it was placed first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxProperties" = 16))]
    #[x_kube(validation = Rule::new(SELECTOR).message("a label has at most 317 characters and its value at most 63"))]
    pub server_selector: Option<BTreeMap<String, String>>,
    /// Connections the database accepts at once, those of the pool included. Default 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10000))]
    pub connection_limit: Option<i32>,
    /// PostgreSQL parameters set for the customer's logins in this database, such as statement_timeout or search_path (a list of
    /// names: `app, public`). Those of the Plan and those of the Customer are joined by name; the Customer's wins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxProperties" = 32))]
    #[x_kube(validation = Rule::new(PARAMETERS).message("a parameter has at most 128 characters and its value at most 1024"))]
    pub parameters: Option<BTreeMap<String, String>>,
    /// Extensions to create; each must be one the server trusts (a member of PostgreSQL's trusted extensions). One that was dropped
    /// is created again within some minutes, or the Database is Stalled with the reason ExtensionRefused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32), inner(length(min = 1, max = 63), regex(pattern = r"^[a-z][a-z0-9_-]*$")))]
    pub extensions: Option<Vec<String>>,
    /// When the database's login and password are replaced. Its fields override the Plan's one by one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<Credentials>,
}

/// The feature `connectionPool`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConnectionPoolFeature {
    /// Whether the customer's applications go through pgbouncer. Unset follows the Plan, and where that is silent, the
    /// feature database. Off: applications connect to PostgreSQL directly.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// How server connections are shared. Default Transaction.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool_mode: Option<PoolMode>,
    /// Server connections for this customer in each pgbouncer process. Default: the fleet's defaultPoolSize.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub pool_size: Option<i32>,
    /// Client connections for this customer in each pgbouncer process. Default: as the fleet says, a fifth of what a process
    /// accepts where it says nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100000))]
    pub max_client_connections: Option<i32>,
    /// Seconds after which pgbouncer ends a client whose query runs on, or whose transaction waits for its next query; the
    /// client cannot lift that. Default: as the fleet says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 604_800))]
    pub query_timeout_seconds: Option<i32>,
    /// Seconds after which pgbouncer ends a client that leaves a transaction open and asks nothing; the client cannot
    /// lift that. Default: as the fleet says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 604_800))]
    pub idle_transaction_timeout_seconds: Option<i32>,
    /// Replaces the server connections once each time this value changes; transactions that run end first. Any string, for example
    /// the number of a migration. Set it after a change to tables that statements were prepared for: their next execution fails
    /// with "cached plan must not change result type" on a connection from before the change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub reconnect: Option<String>,
    /// The fleet to be in. Default: the fleet `global` in the suite's namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pg_bouncer_ref: Option<NamespacedRef>,
}

/// The feature `scheduler`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct SchedulerFeature {
    /// Whether the customer has workers and jobs. Unset follows the Plan, and where that is silent, there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// How many workers run. 0 keeps the jobs and runs no worker. Default 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1000))]
    pub workers: Option<i32>,
    /// Image of the workers and, where they name none, of the jobs. Usually the Plan's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub image: Option<String>,
    /// Command of the workers; unset runs the image's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    #[x_kube(validation = Rule::new(COMMAND).message("the words of command have at most 32768 characters together"))]
    pub command: Option<Vec<String>>,
    /// Environment of workers and jobs, beside the database's binding. Those of the Plan and those of the Customer are joined by
    /// name; the Customer's wins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 100))]
    #[x_kube(validation = Rule::new(ENV).message("names and values of env have at most 131072 characters together"))]
    pub env: Option<Vec<EnvVar>>,
    /// Requests and limits of a worker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,
    /// Where a worker tells that it is ready to work. Unset: one that runs counts as ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub readiness: Option<Readiness>,
    /// Scheduled jobs. Those of the Plan and those of the Customer are joined by name; the Customer's wins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(merge_strategy = kube::core::ListMerge::Map(vec!["name".into()]))]
    #[schemars(length(max = 50))]
    #[x_kube(validation = Rule::new(JOBS).message("the commands of all jobs have at most 131072 characters together"))]
    pub jobs: Option<Vec<JobTemplate>>,
    /// A job that must succeed before workers of a new image run, such as a schema migration. It connects to PostgreSQL directly, also
    /// where workers use a connection pool. The pool replaces its server connections after it, so that workers of the new image meet
    /// no prepared statement from before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new(MIGRATION).message("the words of migration.command have at most 32768 characters together"))]
    pub migration: Option<Migration>,
}

/// Where a worker tells that it is ready to work: an HTTP GET is answered with 200 to 399.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Readiness {
    /// Path of the request. Default /readyz.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256), regex(pattern = r"^/"))]
    pub path: Option<String>,
    /// Port of the worker that answers.
    #[schemars(range(min = 1, max = 65535))]
    pub port: i32,
}

/// A job that runs on a schedule; becomes a CronJob.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct JobTemplate {
    /// Name of the job and of its CronJob.
    #[schemars(length(min = 1, max = 40), regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,
    /// When it runs, in cron's five fields or as @hourly, @daily and the like.
    #[schemars(length(min = 1, max = 100))]
    pub schedule: String,
    /// Time zone of the schedule, such as Europe/Berlin. Default: that of the cluster's controller manager, usually UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    pub time_zone: Option<String>,
    /// Image of the job; unset uses the workers'.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub image: Option<String>,
    /// Command of the job.
    #[schemars(length(min = 1, max = 64))]
    pub command: Vec<String>,
    /// What happens when the last run has not ended yet. Default Forbid.
    #[serde(default)]
    pub concurrency_policy: ConcurrencyPolicy,
    /// Seconds after which a run that could not start is given up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 10, max = 86400))]
    pub starting_deadline_seconds: Option<i64>,
    /// Seconds a run may take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 604_800))]
    pub active_deadline_seconds: Option<i64>,
    /// How often a failed run is tried again. Default 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 20))]
    pub retries: Option<i32>,
    /// How many succeeded runs are kept to look at. Default 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 50))]
    pub successful_history: Option<i32>,
    /// How many failed runs are kept to look at. Default 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 50))]
    pub failed_history: Option<i32>,
}

/// What happens when a job is due and its last run has not ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ConcurrencyPolicy {
    /// Both run.
    Allow,
    /// The new run is skipped.
    #[default]
    Forbid,
    /// The old run is ended.
    Replace,
}

/// A job that must succeed before workers of a new image run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Migration {
    /// Command of the migration, run in the workers' image.
    #[schemars(length(min = 1, max = 64))]
    pub command: Vec<String>,
    /// How often a failed migration is tried again. Default 3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 20))]
    pub retries: Option<i32>,
    /// Seconds the migration may take in all. Default 600.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 86400))]
    pub active_deadline_seconds: Option<i64>,
}

/// The feature `webhooks`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WebhooksFeature {
    /// Whether the customer's events are delivered. Unset follows the Plan.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
}

/// The feature `previews`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PreviewsFeature {
    /// Whether the customer has preview environments. Unset follows the Plan.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
}
