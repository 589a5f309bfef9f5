//! `Customer`: the only object a person or a GitOps tool writes for a tenant.

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

/// A tenant of the platform. Toggle its features here and watch its conditions; the controllers make it true.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "internal.example.com",
    version = "v1",
    kind = "Customer",
    doc = "A tenant of the platform: toggle its features in the spec, watch its conditions in the status.",
    shortname = "cust",
    category = "ahoi",
    status = "CustomerStatus",
    derive = "PartialEq",
    selectable = ".spec.plan",
    validation = Rule::new(STORAGE_IN_FORCE).message(Message::Expression(STORAGE_IN_FORCE_MESSAGE.into())),
    validation = Rule::new("self.metadata.name.size() <= 40")
        .message("metadata.name must be at most 40 characters: other names are made from it"),
    validation = Rule::new("self.metadata.name.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')")
        .message("metadata.name must be lower-case letters, digits and '-', without dots: the namespace is named after it"),
    printcolumn(name = "Plan", type_ = "string", json_path = ".status.plan"),
    printcolumn(name = "Namespace", type_ = "string", json_path = ".status.namespace"),
    printcolumn(name = "Features", type_ = "string", json_path = ".status.summary"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Status", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].message"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct CustomerSpec {
    /// Name of the customer's Plan, which gives the default and the limit of everything below. Unset: the Plan named
    /// `default`, and where there is none, built-in defaults.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub plan: Option<String>,
    /// The customer's name for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128))]
    pub display_name: Option<String>,
    /// Whether the customer's workload runs. Suspended: workers to zero, jobs suspended, route disabled, data kept.
    #[serde(default)]
    pub run_policy: RunPolicy,
    /// Whether the controllers act on this customer. Paused: nothing is changed until it is Normal again.
    #[serde(default)]
    pub reconcile_policy: ReconcilePolicy,
    /// What becomes of the customer's data when the Customer is deleted. Retain: the database stays on its server, closed to every
    /// login; the next Customer of this name adopts it, unless its adoptionPolicy is Refuse. Archive: the database is renamed
    /// `zz_<database>_<unix time>`, closed, and kept until an administrator restores or drops it. Delete: the database and its roles
    /// are dropped. DatabaseServer.status.kept lists what is retained and archived; docs/restore.md has the commands to restore and to
    /// purge it.
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,
    /// What becomes of data that an earlier Customer of this name left. Unset: the Plan's, and where that is silent, Automatic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adoption_policy: Option<AdoptionPolicy>,
    /// While true, deleting the Customer is refused, where `manifests/policies` is installed.
    #[serde(default)]
    pub deletion_protection: bool,
    /// Groups of people who may look into the customer's namespace or work in it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["group".into()]))]
    #[schemars(length(max = 20))]
    pub groups: Vec<GroupBinding>,
    /// What the customer has. A feature, and each field of it, that is left out follows the Plan.
    #[serde(default)]
    pub features: Features,
}

/// Whether a customer's workload runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RunPolicy {
    /// It runs.
    #[default]
    Running,
    /// It is stopped and its data kept.
    Suspended,
}

/// What becomes of data that an earlier Customer of the same name left on a DatabaseServer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum AdoptionPolicy {
    /// The new Customer gets it; an event and the condition DatabaseReady say how old it is.
    #[default]
    Automatic,
    /// The new Customer is Stalled with the reason RetainedDataExists until the policy is Automatic or the data is purged. Data
    /// that the Customer itself has stored is its own.
    Refuse,
}

/// Whether the controllers act.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ReconcilePolicy {
    /// They do.
    #[default]
    Normal,
    /// They leave everything as it is.
    Paused,
}

/// What the controllers made of a Customer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct CustomerStatus {
    /// The generation of the spec that this status describes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The Plan in force; empty while built-in defaults are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<String>,
    /// The customer's namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// How many of the enabled features are ready, such as 3/3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub summary: Option<String>,
    /// Storage of the database in bytes, as it is in force: also while the spec asks for another one that is not applied. Kept
    /// while the data of a database that is off is retained.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage_bytes: Option<i64>,
    /// The Plan's default storage in bytes when it was applied last. A database whose Customer leaves the storage out grows when
    /// the default is raised above this, and keeps its size otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_storage_bytes: Option<i64>,
    /// Time at which the customer was Ready for the first time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_ready_at: Option<Time>,
    /// The spec.runPolicy that is applied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_policy: Option<RunPolicy>,
    /// Time since which the login in use has been in use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials_rotated_at: Option<Time>,
    /// Whether data of the feature database, since it was turned off, is retained on its server.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub database_retained: bool,
    /// Every feature and how it is.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub features: Vec<FeatureStatus>,
    /// Ready, NamespaceReady, one condition for each enabled feature, and Reconciling, Stalled or Paused while they hold. StorageQuotaOk
    /// and JobsHealthy as the Database and the Scheduler report them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

/// How one feature of a customer is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FeatureStatus {
    /// Name of the feature, as in the spec.
    pub name: String,
    /// How it is.
    pub state: FeatureState,
    /// Why, in one word for machines.
    pub reason: String,
    /// The child object that makes it true.
    #[serde(rename = "ref", default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<ChildRef>,
}

/// How a feature is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum FeatureState {
    /// Enabled, and works.
    Ready,
    /// Enabled, and on its way.
    Progressing,
    /// Enabled, and needs somebody: its condition says what to do.
    Stalled,
    /// Enabled, and not built yet; it blocks nothing else.
    Unavailable,
    /// Not enabled.
    Disabled,
}

/// An object that a controller made for a customer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ChildRef {
    /// Kind of the object.
    pub kind: String,
    /// Its namespace; none for a cluster-scoped one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
}
