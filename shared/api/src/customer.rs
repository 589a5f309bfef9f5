//! `Customer`: the only object that people or GitOps tools write for a customer.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::size::quantity;
use crate::{DeletionPolicy, Features, GroupBinding};

/// CEL on a Customer: storage that is changed is not less than what is in force, which is more than the spec as long as the spec
/// cannot be applied. A spec that stays as it is passes, or a status could not be written any more. A number as a string has no bound
/// that the API server knows, and would cost too much.
const STORAGE_IN_FORCE: &str = concat!(
    "!has(self.spec.features) || !has(self.spec.features.database) || !has(self.spec.features.database.storage) \
     || !has(self.status) || !has(self.status.storageBytes) \
     || (has(oldSelf.spec.features) && has(oldSelf.spec.features.database) && has(oldSelf.spec.features.database.storage) \
     && oldSelf.spec.features.database.storage == self.spec.features.database.storage) || ",
    quantity!("self.spec.features.database.storage"),
    ".asApproximateFloat() >= double(self.status.storageBytes) - 1.0"
);
const STORAGE_IN_FORCE_MESSAGE: &str = "'spec.features.database.storage is ' + self.spec.features.database.storage \
     + ', less than the database has (status.storageBytes), which cannot shrink: set it to at least that, or take it out'";

/// A customer of the platform. Enable its features in the spec and read its conditions in the status.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "internal.example.com",
    version = "v1",
    kind = "Customer",
    doc = "A customer of the platform: enable its features in the spec and read its conditions in the status.",
    shortname = "cust",
    status = "CustomerStatus",
    derive = "PartialEq",
    selectable = ".spec.plan",
    selectable = ".status.plan",
    validation = Rule::new(STORAGE_IN_FORCE).message(Message::Expression(STORAGE_IN_FORCE_MESSAGE.into())),
    validation = Rule::new("self.metadata.name.size() <= 40")
        .message("metadata.name must be at most 40 characters: other names contain it"),
    validation = Rule::new("self.metadata.name.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')")
        .message("metadata.name must be lower-case letters, digits and '-', without dots: the namespace is named after it"),
    printcolumn(name = "Plan", type_ = "string", json_path = ".status.plan"),
    printcolumn(name = "Namespace", type_ = "string", json_path = ".status.namespace"),
    printcolumn(name = "Server", type_ = "string", json_path = ".status.databaseServer"),
    printcolumn(name = "Features", type_ = "integer", json_path = ".status.enabledFeatures"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Since", type_ = "date", json_path = ".status.conditions[?(@.type==\"Ready\")].lastTransitionTime"),
    printcolumn(name = "Status", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].message"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct CustomerSpec {
    /// Name of the Plan with the defaults and limits of this customer. Unset: the Plan `default`, or built-in defaults
    /// if it does not exist.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub plan: Option<String>,
    /// Name of the customer as people write it, for example "Big Client Ltd".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128))]
    pub display_name: Option<String>,
    /// Whether workers, jobs and the connection pool run. Default Running.
    #[serde(default)]
    pub run_policy: RunPolicy,
    /// Whether the controllers apply changes of this customer. Default Normal.
    #[serde(default)]
    pub reconcile_policy: ReconcilePolicy,
    /// What happens to the data of the customer when the Customer is deleted. Default Retain. The guide docs/restore.md
    /// has the commands to restore and to purge data.
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,
    /// What happens to data that an earlier Customer of this name left. Unset: the policy of the Plan, or Automatic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adoption_policy: Option<AdoptionPolicy>,
    /// Whether to refuse the deletion of this Customer. Needs the admission policies of `manifests/policies`. Default
    /// false.
    #[serde(default)]
    pub deletion_protection: bool,
    /// Groups with access to the namespace of the customer. At most 20.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["group".into()]))]
    #[schemars(length(max = 20))]
    pub groups: Vec<GroupBinding>,
    /// Features of the customer. Each field that is unset has the value of the Plan.
    #[serde(default)]
    pub features: Features,
}

/// Whether the workload of a customer runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RunPolicy {
    /// Run workers and jobs, and accept connections in the connection pool.
    #[default]
    Running,
    /// Scale workers to 0, suspend jobs, and refuse connections in the connection pool. The data is kept.
    Suspended,
}

/// What happens to data that an earlier Customer of the same name left on a DatabaseServer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum AdoptionPolicy {
    /// The new Customer gets the data. An event and the condition DatabaseReady say how old it is.
    #[default]
    Automatic,
    /// The new Customer is Stalled with the reason RetainedDataExists until the policy is Automatic or the data is
    /// purged. Data that this Customer itself stored is not affected.
    Refuse,
}

/// Whether the controllers apply changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ReconcilePolicy {
    /// Apply changes.
    #[default]
    Normal,
    /// Change nothing until the policy is Normal again, not even when the Customer is deleted.
    Paused,
}

/// Observed state of a Customer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct CustomerStatus {
    /// Generation of the spec that this status describes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Name of the Plan in force. Unset: built-in defaults are in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<String>,
    /// Name of the namespace of the customer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Name of the DatabaseServer with the customer's database.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub database_server: Option<String>,
    /// Number of features that are enabled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enabled_features: Option<i32>,
    /// Number of enabled features that are ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready_features: Option<i32>,
    /// Storage of the database in force, in bytes. It differs from the spec while the spec cannot be applied. It is
    /// kept while a disabled database is retained.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage_bytes: Option<i64>,
    /// Default storage of the Plan when it was applied last, in bytes. A database whose Customer does not set a storage
    /// grows when the Plan raises its default above this value, and keeps its size otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_storage_bytes: Option<i64>,
    /// Time at which the Customer was Ready for the first time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_ready_at: Option<Time>,
    /// Value of `spec.runPolicy` that is applied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_policy: Option<RunPolicy>,
    /// Time of the last rotation of the database credentials.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials_rotated_at: Option<Time>,
    /// Whether data of the disabled feature database is retained on its server.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub database_retained: bool,
    /// State of each feature.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub features: Vec<FeatureStatus>,
    /// Ready; NamespaceReady; one condition for each enabled feature, for example DatabaseReady; and while they are
    /// true Reconciling, Stalled and Paused. StorageQuotaOk and JobsHealthy are those of the Database and the
    /// Scheduler.
    #[serde(default, deserialize_with = "crate::conditions::deserialize", skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

/// State of a feature of a customer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FeatureStatus {
    /// Name of the feature, as in the spec.
    pub name: String,
    /// State of the feature.
    pub state: FeatureState,
    /// Reason of the state, in CamelCase. The condition of the feature has the message.
    pub reason: String,
    /// Object that provides the feature.
    #[serde(rename = "ref", default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<ChildRef>,
}

/// State of a feature.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum FeatureState {
    /// The feature is enabled and ready.
    Ready,
    /// The feature is enabled and not ready yet. The controllers continue by themselves.
    Progressing,
    /// The feature is enabled, and an administrator has to act: the message of its condition says how.
    Stalled,
    /// The feature is enabled and not part of this release. Other features are not affected.
    Unavailable,
    /// The feature is not enabled.
    Disabled,
}

/// Reference to an object that a controller created for a customer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ChildRef {
    /// Kind of the object.
    pub kind: String,
    /// Namespace of the object. Unset: the kind is cluster-scoped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Name of the object.
    pub name: String,
}
