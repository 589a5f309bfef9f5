//! `CustomerNamespace`: the namespace of a customer with what makes it a tenant's.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::LimitRangeItem;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The namespace `customer-<name>` and its guard rails. Made by the Customer's controller.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "internal.example.com",
    version = "v1",
    kind = "CustomerNamespace",
    doc = "The namespace of a customer and its guard rails. Made by the Customer controller.",
    shortname = "custns",
    category = "ahoi",
    status = "CustomerNamespaceStatus",
    derive = "PartialEq",
    validation = Rule::new("self.metadata.name.size() <= 40 && self.metadata.name.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')")
        .message("metadata.name must be at most 40 lower-case letters, digits and '-': the namespace is named after it"),
    printcolumn(name = "Namespace", type_ = "string", json_path = ".status.namespace"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Status", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].message"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct CustomerNamespaceSpec {
    /// The guard rails of the namespace.
    #[serde(default)]
    pub guardrails: Guardrails,
    /// Groups of people who may look into the namespace or work in it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["group".into()]))]
    #[schemars(length(max = 20))]
    pub groups: Vec<GroupBinding>,
    /// Whether pods of the namespace may connect to PostgreSQL directly, past the PgBouncer fleet. Set by the Customer's
    /// controller while the customer has a database. Default false.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub direct_database: bool,
    /// Names of the PgBouncer fleets that pods of the namespace may connect to: those with a pool of the customer. Set by the
    /// Customer's controller.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Set)]
    #[schemars(length(max = 32))]
    pub fleets: Vec<String>,
    /// What becomes of the core Namespace when this object is deleted. The Customer's controller sets Delete when the
    /// Customer itself is deleted; in every other case the namespace stays.
    #[serde(default)]
    pub deletion_policy: NamespaceDeletionPolicy,
}

/// What becomes of a core Namespace when its CustomerNamespace is deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum NamespaceDeletionPolicy {
    /// It stays.
    #[default]
    Retain,
    /// It is deleted.
    Delete,
}

/// What keeps a tenant within its bounds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Guardrails {
    /// The Pod Security Standard enforced in the namespace (<https://kubernetes.io/docs/concepts/security/pod-security-standards/>).
    #[serde(default)]
    pub pod_security: PodSecurity,
    /// Hard limits of the namespace's ResourceQuota, such as pods or requests.cpu. Empty: no quota.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64))]
    pub quota: BTreeMap<String, Quantity>,
    /// Defaults and bounds for containers that say nothing; becomes the LimitRange. Empty: no limit range.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub limits: Vec<LimitRangeItem>,
    /// Which traffic pods of the namespace may send and receive.
    #[serde(default)]
    pub network: NetworkIsolation,
    /// NetworkPolicies that people of the customer may add to a namespace whose network is Isolated. Default WithinNamespace.
    /// Needs the policies of `manifests/policies`.
    #[serde(default)]
    pub tenant_network_policies: TenantNetworkPolicies,
}

/// A Pod Security Standard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PodSecurity {
    /// Hardened pods only.
    #[default]
    Restricted,
    /// No known privilege escalations.
    Baseline,
    /// No restriction.
    Privileged,
}

/// Traffic that pods of the namespace may send and receive. The cluster's network plugin must enforce NetworkPolicies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum NetworkIsolation {
    /// Traffic within the namespace, to the cluster's DNS, to the PgBouncer fleets with a pool of the customer and, while the customer has a database, to the
    /// DatabaseServers. A DatabaseServer whose host is neither an address nor a Service is reached at the addresses in
    /// `DATABASE_CIDRS` of ahoi-namespace, and a DNS server that is no pod of kube-system labelled `k8s-app: kube-dns` at those in
    /// `DNS_CIDRS`.
    #[default]
    Isolated,
    /// All traffic: no NetworkPolicy.
    Open,
}

/// NetworkPolicies that people of a customer may add. NetworkPolicies add up: one that allows everything would undo those of
/// the platform.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TenantNetworkPolicies {
    /// Those that allow traffic within the namespace only: each rule has peers, and each peer a podSelector, no
    /// namespaceSelector and no ipBlock. The policies default-deny and allow-platform cannot be changed or deleted.
    #[default]
    WithinNamespace,
    /// All: people of the customer can open the namespace to any address.
    Unrestricted,
}

/// A group of people and what it may do in a customer's namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GroupBinding {
    /// Name of the group, as the cluster's authentication reports it.
    #[schemars(length(min = 1, max = 253))]
    pub group: String,
    /// What it may do.
    #[serde(default)]
    pub role: GroupRole,
}

/// What a group may do: Kubernetes' own user-facing roles
/// (<https://kubernetes.io/docs/reference/access-authn-authz/rbac/#user-facing-roles>).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum GroupRole {
    /// Look, Secrets excepted.
    #[default]
    View,
    /// Change workloads.
    Edit,
    /// Change workloads and grant access to them.
    Admin,
}

/// What the controller made of a CustomerNamespace.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct CustomerNamespaceStatus {
    /// The generation of the spec that this status describes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The core Namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Ready, and Reconciling or Stalled while they hold.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}
