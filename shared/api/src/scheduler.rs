//! `Scheduler`: a customer's workers and jobs.

use k8s_openapi::api::core::v1::{EnvVar, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Binding, JobTemplate, LocalRef, Migration, Readiness, RunPolicy};

/// Workers and scheduled jobs of a customer. Created by the Customer controller.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "internal.example.com",
    version = "v1",
    kind = "Scheduler",
    doc = "Workers and scheduled jobs of one customer. Created by the Customer controller.",
    namespaced,
    shortname = "sched",
    category = "ahoi",
    status = "SchedulerStatus",
    scale(
        spec_replicas_path = ".spec.workers",
        status_replicas_path = ".status.workers",
        label_selector_path = ".status.selector"
    ),
    derive = "PartialEq",
    validation = Rule::new("self.metadata.name.size() <= 52").message("metadata.name must be at most 52 characters: the Deployment is named after it"),
    printcolumn(name = "Workers", type_ = "integer", json_path = ".status.workers"),
    printcolumn(name = "Ready-Workers", type_ = "integer", json_path = ".status.readyWorkers"),
    printcolumn(name = "Jobs", type_ = "string", json_path = ".status.conditions[?(@.type==\"JobsHealthy\")].reason"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Since", type_ = "date", json_path = ".status.conditions[?(@.type==\"Ready\")].lastTransitionTime"),
    printcolumn(name = "Status", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].message"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct SchedulerSpec {
    /// Number of workers. The Customer controller sets it to `spec.features.scheduler.workers` of the Customer or the
    /// Plan. It reverts a value that `kubectl scale` sets here: change the Customer instead. A Scheduler without a
    /// Customer keeps the value.
    #[schemars(range(min = 0, max = 1000))]
    pub workers: i32,
    /// Image of the workers, and of jobs that set none.
    #[schemars(length(min = 1, max = 512))]
    pub image: String,
    /// Command of the workers. Unset: the command of the image.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub command: Vec<String>,
    /// Environment variables of workers and jobs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100))]
    pub env: Vec<EnvVar>,
    /// Resource requests and limits of a worker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,
    /// HTTP endpoint by which a worker reports that it is ready. Unset: a running worker is ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub readiness: Option<Readiness>,
    /// Secret with the connection details of the database. It is mounted at /bindings/database, and
    /// SERVICE_BINDING_ROOT is /bindings, as the Service Binding specification defines. Unset: no Secret is mounted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub binding: Option<Binding>,
    /// Settings of the migration if `binding` is that of a connection pool. Unset: the migration uses `binding`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<MigrationPool>,
    /// Scheduled jobs. At most 50.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    #[schemars(length(max = 50))]
    pub jobs: Vec<JobTemplate>,
    /// Job that must succeed before workers of a new image start. Unset: no migration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub migration: Option<Migration>,
    /// Whether workers and jobs run. Default Running.
    #[serde(default)]
    pub run_policy: RunPolicy,
}

/// Settings of a migration if workers use a connection pool.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MigrationPool {
    /// Secret for a direct connection to PostgreSQL. The migration mounts it instead of `binding`, because migration
    /// tools use session locks, which do not work in a pool in transaction mode.
    pub direct_binding_ref: LocalRef,
    /// Value of `status.migration` after which the pool has replaced its server connections. Workers and jobs of a new
    /// version start when it equals the uid of their migration, so that they meet no prepared statement of the former
    /// schema.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reconnected_after: Option<String>,
}

/// Observed state of a Scheduler.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct SchedulerStatus {
    /// Generation of the spec that this status describes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Number of workers that are to run: `spec.workers`, or 0 while suspended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workers: Option<i32>,
    /// Number of workers that are ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready_workers: Option<i32>,
    /// Label selector of the workers' pods, for autoscalers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,
    /// Uid of the last migration Job that succeeded. When it changes, the connection pool replaces its server
    /// connections.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub migration: Option<String>,
    /// Last run of each job.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub jobs: Vec<JobStatus>,
    /// Ready; WorkersReady; JobsHealthy; Migrated if there is a migration; and while they are true Reconciling and
    /// Stalled.
    #[serde(default, deserialize_with = "crate::conditions::deserialize", skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

/// Last run of a job.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct JobStatus {
    /// Name of the job.
    pub name: String,
    /// Time at which the job was started last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_schedule_time: Option<Time>,
    /// Time at which a run succeeded last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_successful_time: Option<Time>,
}
