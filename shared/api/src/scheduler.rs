//! `Scheduler`: a customer's workers and jobs.

use k8s_openapi::api::core::v1::{EnvVar, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Binding, JobTemplate, LocalRef, Migration, Readiness, RunPolicy};

/// Workers and scheduled jobs of a customer. Made by the Customer's controller.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "internal.example.com",
    version = "v1",
    kind = "Scheduler",
    doc = "Workers and scheduled jobs of one customer. Made by the Customer controller.",
    namespaced,
    shortname = "sched",
    category = "ahoi",
    status = "SchedulerStatus",
    derive = "PartialEq",
    validation = Rule::new("self.metadata.name.size() <= 52").message("metadata.name must be at most 52 characters: the Deployment is named after it"),
    printcolumn(name = "Workers", type_ = "string", json_path = ".status.workers"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Status", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].message"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct SchedulerSpec {
    /// How many workers run.
    #[schemars(range(min = 0, max = 1000))]
    pub workers: i32,
    /// Image of the workers and, where they name none, of the jobs.
    #[schemars(length(min = 1, max = 512))]
    pub image: String,
    /// Command of the workers; unset runs the image's own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub command: Vec<String>,
    /// Environment of workers and jobs, beside the database's binding.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100))]
    pub env: Vec<EnvVar>,
    /// Requests and limits of a worker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,
    /// Where a worker tells that it is ready to work. Unset: one that runs counts as ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub readiness: Option<Readiness>,
    /// The Secret with the way to the database, mounted at /bindings/database with SERVICE_BINDING_ROOT=/bindings as the
    /// Service Binding specification says. Unset: none is mounted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub binding: Option<Binding>,
    /// What the migration needs where `binding` leads through a connection pool. Unset: the migration uses `binding`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<MigrationPool>,
    /// Scheduled jobs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    #[schemars(length(max = 50))]
    pub jobs: Vec<JobTemplate>,
    /// A job that must succeed before workers of a new image run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub migration: Option<Migration>,
    /// Suspended: workers to zero, jobs suspended.
    #[serde(default)]
    pub run_policy: RunPolicy,
}

/// What a migration needs where workers connect through a connection pool.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MigrationPool {
    /// Name of the Secret to connect to PostgreSQL directly. The migration mounts it in place of `binding`: migration tools take
    /// locks of a session, which a pool in transaction mode leaves on a server connection that other clients use.
    pub direct_binding_ref: LocalRef,
    /// The value of `status.migration` after which the pool has replaced its server connections. Workers and jobs of a new version
    /// start when it is that of their migration, so that they meet no statement that was prepared for the former tables.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reconnected_after: Option<String>,
}

/// How a customer's workers and jobs are.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct SchedulerStatus {
    /// The generation of the spec that this status describes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Workers that are ready and workers wanted, such as 4/4.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workers: Option<String>,
    /// Uid of the last migration Job that succeeded. The Customer's controller has the connection pool replace its server
    /// connections each time it changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub migration: Option<String>,
    /// The last run of each job.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub jobs: Vec<JobStatus>,
    /// Ready, WorkersReady, JobsHealthy, Migrated (where there is a migration), and Reconciling or Stalled while they hold.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

/// The last run of a job.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct JobStatus {
    /// Name of the job.
    pub name: String,
    /// When it was last started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_schedule_time: Option<Time>,
    /// When a run last succeeded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_successful_time: Option<Time>,
}
