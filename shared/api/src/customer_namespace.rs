//! `CustomerNamespace`: the namespace of a customer and its restrictions.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::LimitRangeItem;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The namespace `customer-<name>` and its guard rails. Created by the Customer controller.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "internal.example.com",
    version = "v1",
    kind = "CustomerNamespace",
    doc = "The namespace of a customer and its restrictions. Created by the Customer controller.",
    shortname = "custns",
    status = "CustomerNamespaceStatus",
    derive = "PartialEq",
    validation = Rule::new("self.metadata.name.size() <= 40 && self.metadata.name.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')")
        .message("metadata.name must be at most 40 lower-case letters, digits and '-': the namespace is named after it"),
    printcolumn(name = "Namespace", type_ = "string", json_path = ".status.namespace"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Since", type_ = "date", json_path = ".status.conditions[?(@.type==\"Ready\")].lastTransitionTime"),
    printcolumn(name = "Status", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].message"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct CustomerNamespaceSpec {
    /// Restrictions of the namespace.
    #[serde(default)]
    pub guardrails: Guardrails,
    /// Groups with access to the namespace. At most 20.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["group".into()]))]
    #[schemars(length(max = 20))]
    pub groups: Vec<GroupBinding>,
    /// Whether pods of the namespace may connect to PostgreSQL directly, without pgbouncer. The Customer controller
    /// sets it while the customer has a database. Default false.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub direct_database: bool,
    /// Names of the PgBouncer fleets that pods of the namespace may connect to. The Customer controller sets them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Set)]
    #[schemars(length(max = 32))]
    pub fleets: Vec<String>,
    /// What happens to the core Namespace when this object is deleted. Default Retain. The Customer controller sets
    /// Delete when the Customer itself is deleted.
    #[serde(default)]
    pub deletion_policy: NamespaceDeletionPolicy,
}

/// What happens to a core Namespace when its CustomerNamespace is deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum NamespaceDeletionPolicy {
    /// Keep the namespace.
    #[default]
    Retain,
    /// Delete the namespace and everything in it.
    Delete,
}

/// Restrictions of the namespace of a customer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Guardrails {
    /// Pod Security Standard that is enforced (<https://kubernetes.io/docs/concepts/security/pod-security-standards/>).
    /// Default Restricted.
    #[serde(default)]
    pub pod_security: PodSecurity,
    /// Hard limits of the ResourceQuota, for example pods or requests.cpu. Empty: no ResourceQuota.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64))]
    pub quota: BTreeMap<String, Quantity>,
    /// Items of the LimitRange: defaults and limits for containers that set none. Empty: no LimitRange.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub limits: Vec<LimitRangeItem>,
    /// Traffic that pods of the namespace may send and receive. Default Isolated.
    #[serde(default)]
    pub network: NetworkIsolation,
    /// NetworkPolicies that members of the groups may add while the network is Isolated. Default WithinNamespace. Needs
    /// the admission policies of `manifests/policies`.
    #[serde(default)]
    pub tenant_network_policies: TenantNetworkPolicies,
}

/// A Pod Security Standard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PodSecurity {
    /// Hardened pods only.
    #[default]
    Restricted,
    /// Known privilege escalations are refused.
    Baseline,
    /// No restrictions.
    Privileged,
}

/// Traffic that pods of a namespace may send and receive. The network plugin of the cluster must enforce
/// NetworkPolicies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum NetworkIsolation {
    /// Traffic within the namespace, to the DNS of the cluster, to the PgBouncer fleets with a pool of the customer
    /// and, while the customer has a database, to the DatabaseServers. A DatabaseServer whose host is neither an IP
    /// address nor a Service is reachable at the addresses in `DATABASE_CIDRS` of ahoi-namespace, and a DNS server that
    /// is not a pod of kube-system with the label `k8s-app: kube-dns` at those in `DNS_CIDRS`.
    #[default]
    Isolated,
    /// All traffic: there is no NetworkPolicy.
    Open,
}

/// NetworkPolicies that members of the groups may add. NetworkPolicies are additive: one that allows all traffic would
/// override those of the platform.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TenantNetworkPolicies {
    /// Only policies that allow traffic within the namespace: each rule has peers, and each peer has a podSelector, no
    /// namespaceSelector and no ipBlock. The policies default-deny and allow-platform cannot be changed or deleted.
    #[default]
    WithinNamespace,
    /// All policies: members of the groups can open the namespace to any address.
    Unrestricted,
}

/// A group and its role in the namespace of a customer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GroupBinding {
    /// Name of the group, as the authentication of the cluster reports it.
    #[schemars(length(min = 1, max = 253))]
    pub group: String,
    /// Role of the group. Default View.
    #[serde(default)]
    pub role: GroupRole,
}

/// Role of a group: a user-facing role of Kubernetes
/// (<https://kubernetes.io/docs/reference/access-authn-authz/rbac/#user-facing-roles>).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum GroupRole {
    /// Read most objects, without Secrets.
    #[default]
    View,
    /// Read and write workloads, Services, ConfigMaps and Secrets.
    Edit,
    /// As Edit, and grant access to others with Roles and RoleBindings.
    Admin,
}

/// Observed state of a CustomerNamespace.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct CustomerNamespaceStatus {
    /// Generation of the spec that this status describes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Name of the core Namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Ready; and while they are true Reconciling and Stalled.
    #[serde(default, deserialize_with = "crate::conditions::deserialize", skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}
