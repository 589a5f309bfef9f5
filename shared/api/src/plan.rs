//! `Plan`: defaults and limits for the customers on it.

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
    category = "ahoi",
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
    printcolumn(name = "Status", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].message"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct PlanSpec {
    /// The default of every feature; a Customer overrides field by field. Jobs, env and parameters are joined by name.
    #[serde(default)]
    pub features: Features,
    /// The guard rails of the customers' namespaces.
    #[serde(default)]
    pub guardrails: Guardrails,
    /// What becomes of data that an earlier Customer of a customer's name left. A Customer overrides it. Unset: Automatic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adoption_policy: Option<AdoptionPolicy>,
    /// What a Customer on this Plan cannot exceed.
    #[serde(default)]
    pub limits: PlanLimits,
}

/// What a Customer on a Plan cannot exceed. A Customer that does is Stalled with the reason ExceedsPlan: the field that exceeds
/// the limit keeps its value in force, and the rest of the spec is applied.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PlanLimits {
    /// Most workers. Unset: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1000))]
    pub max_workers: Option<i32>,
    /// Most storage. Unset: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_storage: Option<Size>,
    /// Most server connections in each pgbouncer process that a Customer or this Plan may ask for; the default of the fleet is
    /// not looked at. Unset: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub max_pool_size: Option<i32>,
    /// Most jobs. Unset: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 50))]
    pub max_jobs: Option<i32>,
}

/// Observed state of a Plan.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct PlanStatus {
    /// The generation of the spec that this status describes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Number of Customers on this Plan: those that name it in spec.plan, and for the Plan `default` those that name none. Up to
    /// ten seconds old. While it is not 0 the Plan cannot be deleted, where `manifests/policies` is installed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub customers: Option<i64>,
    /// Ready, and Stalled while a value of the spec cannot be used.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}
