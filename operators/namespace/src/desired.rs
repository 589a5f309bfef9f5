//! The desired namespace of a customer, and its guard rails.

use std::collections::BTreeMap;

use ahoi_api::{
    CUSTOMER_LABEL, CustomerNamespace, GroupRole, NAMESPACE_OWNER_LABEL, NetworkIsolation, PodSecurity,
    TENANT_NETWORK_POLICIES_LABEL, TenantNetworkPolicies, fleet_access_label, namespace_of,
};
use k8s_openapi::api::core::v1::{LimitRange, LimitRangeSpec, Namespace, ResourceQuota, ResourceQuotaSpec};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::rbac::v1::{RoleBinding, RoleRef, Subject};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt;

use crate::guard_rail::meta;
use crate::network::{self, Endpoints, Servers};

/// All names of quotas, so that an obsolete one is found without a search.
pub const QUOTAS: &[&str] = &["customer"];
/// All names of limit ranges.
pub const LIMITS: &[&str] = &["customer"];
/// All names of network policies.
pub const POLICIES: &[&str] = &["default-deny", "allow-platform"];
/// All names of role bindings.
pub const BINDINGS: &[&str] = &["customer-view", "customer-edit", "customer-admin"];

/// The objects that restrict the tenant. Empty parts of the spec have no object.
#[derive(Debug)]
pub struct GuardRails {
    pub quota: Option<ResourceQuota>,
    pub limits: Option<LimitRange>,
    pub policies: Vec<NetworkPolicy>,
    pub bindings: Vec<RoleBinding>,
}

/// The Namespace.
pub fn namespace(owner: &CustomerNamespace) -> Namespace {
    let name = namespace_of(&owner.name_any());
    let standard = match owner.spec.guardrails.pod_security {
        PodSecurity::Restricted => "restricted",
        PodSecurity::Baseline => "baseline",
        PodSecurity::Privileged => "privileged",
    };
    let labels = [
        (CUSTOMER_LABEL, owner.name_any()),
        (NAMESPACE_OWNER_LABEL, owner.metadata.uid.clone().unwrap_or_default()),
        ("kubernetes.io/metadata.name", name.clone()),
        ("pod-security.kubernetes.io/enforce", standard.into()),
        ("pod-security.kubernetes.io/enforce-version", "latest".into()),
        ("pod-security.kubernetes.io/warn", standard.into()),
        ("pod-security.kubernetes.io/audit", standard.into()),
        (TENANT_NETWORK_POLICIES_LABEL, tenant_network_policies(owner).into()),
    ];
    let fleets = owner.spec.fleets.iter().map(|fleet| (fleet_access_label(fleet), "true".to_owned()));
    let labels = labels.map(|(key, value)| (key.to_owned(), value)).into_iter().chain(fleets);
    Namespace {
        metadata: ObjectMeta { name: Some(name), labels: Some(labels.collect()), ..ObjectMeta::default() },
        ..Namespace::default()
    }
}

/// Which NetworkPolicies the admission policy allows the tenant to add. In an open namespace, they can only restrict.
fn tenant_network_policies(owner: &CustomerNamespace) -> &'static str {
    match (owner.spec.guardrails.network, owner.spec.guardrails.tenant_network_policies) {
        (NetworkIsolation::Isolated, TenantNetworkPolicies::WithinNamespace) => "within-namespace",
        _ => "unrestricted",
    }
}

/// The guard rails.
pub fn guard_rails(owner: &CustomerNamespace, endpoints: &Endpoints, servers: &Servers) -> GuardRails {
    let spec = &owner.spec.guardrails;
    let quota = (!spec.quota.is_empty()).then(|| ResourceQuota {
        metadata: meta(owner, "customer"),
        spec: Some(ResourceQuotaSpec { hard: Some(spec.quota.clone()), ..ResourceQuotaSpec::default() }),
        ..ResourceQuota::default()
    });
    let limits = (!spec.limits.is_empty()).then(|| LimitRange {
        metadata: meta(owner, "customer"),
        spec: Some(LimitRangeSpec { limits: spec.limits.clone() }),
    });
    let policies = network::policies(owner, endpoints, servers);
    GuardRails { quota, limits, policies, bindings: bindings(owner) }
}

/// One binding for each role instead of each group: fewer objects, and since the role of a binding is immutable, a group that
/// changes its role changes only two lists of subjects.
fn bindings(owner: &CustomerNamespace) -> Vec<RoleBinding> {
    let mut groups: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for binding in &owner.spec.groups {
        let role = match binding.role {
            GroupRole::View => "view",
            GroupRole::Edit => "edit",
            GroupRole::Admin => "admin",
        };
        groups.entry(role).or_default().push(&binding.group);
    }
    groups.into_iter().map(|(role, groups)| binding(owner, role, groups)).collect()
}

fn binding(owner: &CustomerNamespace, role: &str, mut groups: Vec<&str>) -> RoleBinding {
    const RBAC: &str = "rbac.authorization.k8s.io";
    groups.sort_unstable();
    let subject = |group: &str| Subject {
        api_group: Some(RBAC.into()),
        kind: "Group".into(),
        name: group.to_owned(),
        namespace: None,
    };
    RoleBinding {
        metadata: meta(owner, &format!("customer-{role}")),
        role_ref: RoleRef { api_group: RBAC.into(), kind: "ClusterRole".into(), name: role.to_owned() },
        subjects: Some(groups.into_iter().map(subject).collect()),
    }
}
