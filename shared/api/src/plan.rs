//! `Plan`: defaults and limits for customers.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{AdoptionPolicy, Features, Guardrails, Size};

/// Defaults and limits for customers. Changing a Plan changes its customers.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "internal.example.com",
    version = "v1",
    kind = "Plan",
    doc = "Defaults and limits for customers. Changing a Plan changes its customers.",
    status = "PlanStatus",
    derive = "PartialEq",
    validation = Rule::new("self.metadata.name.size() <= 63 && self.metadata.name.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')")
        .message("metadata.name must be at most 63 lower-case letters, digits and '-': no Customer could name it in spec.plan"),
    printcolumn(name = "Customers", type_ = "integer", json_path = ".status.customers"),
    printcolumn(name = "Workers", type_ = "integer", json_path = ".spec.features.scheduler.workers"),
    printcolumn(name = "Max-Workers", type_ = "integer", json_path = ".spec.limits.maxWorkers"),
    printcolumn(name = "Storage", type_ = "string", json_path = ".spec.features.database.storage"),
    printcolumn(name = "Max-Storage", type_ = "string", json_path = ".spec.limits.maxStorage"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Since", type_ = "date", json_path = ".status.conditions[?(@.type==\"Ready\")].lastTransitionTime"),
    printcolumn(name = "Status", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].message"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct PlanSpec {
    /// Defaults of the features. A Customer overrides each field. Jobs, environment variables and parameters are merged
    /// by name.
    #[serde(default)]
    pub features: Features,
    /// Restrictions of the namespaces of the customers.
    #[serde(default)]
    pub guardrails: Guardrails,
    /// Default of `spec.adoptionPolicy` of the Customers. Unset: Automatic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adoption_policy: Option<AdoptionPolicy>,
    /// Maximum values for the Customers on this Plan.
    #[serde(default)]
    pub limits: PlanLimits,
}

/// Maximum values for the Customers on a Plan. A Customer that exceeds one is Stalled with the reason ExceedsPlan: the
/// field keeps its value in force, and the rest of the spec is applied.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PlanLimits {
    /// Maximum number of workers of a customer. Unset: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1000))]
    pub max_workers: Option<i32>,
    /// Maximum storage of a database, for example 1tb. Unset: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_storage: Option<Size>,
    /// Maximum number of server connections in each pgbouncer process that a Customer or this Plan may request. The
    /// default of the PgBouncer fleet is not checked. Unset: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub max_pool_size: Option<i32>,
    /// Maximum number of jobs of a customer. Unset: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 50))]
    pub max_jobs: Option<i32>,
}

/// Observed state of a Plan.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct PlanStatus {
    /// Generation of the spec that this status describes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Number of Customers on this Plan: those with this name in `spec.plan`, and for the Plan `default` also those
    /// that set none. Up to ten seconds old. A Plan with customers cannot be deleted where `manifests/policies` is
    /// installed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub customers: Option<i64>,
    /// Ready; and Stalled while a value of the spec is invalid.
    #[serde(default, deserialize_with = "crate::conditions::deserialize", skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}
