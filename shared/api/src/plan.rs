//! `Plan`: defaults and limits for the customers on it.

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Features, Guardrails, Size};

/// Defaults and limits for customers. Changing a Plan changes its customers.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "internal.example.com",
    version = "v1",
    kind = "Plan",
    doc = "Defaults and limits for customers. Changing a Plan changes its customers.",
    category = "ahoi",
    derive = "PartialEq",
    printcolumn(name = "Workers", type_ = "integer", json_path = ".spec.features.scheduler.workers"),
    printcolumn(name = "Storage", type_ = "string", json_path = ".spec.features.database.storage"),
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
    /// What a Customer on this Plan cannot exceed.
    #[serde(default)]
    pub limits: PlanLimits,
}

/// What a Customer on a Plan cannot exceed. A Customer that does is Stalled with the reason ExceedsPlan, and what
/// already runs is left alone.
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
