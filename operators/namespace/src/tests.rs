use ahoi_api::{
    CUSTOMER_LABEL, CustomerNamespace, DatabaseServer, NAMESPACE_OWNER_LABEL, TENANT_NETWORK_POLICIES_LABEL,
    TenantNetworkPolicies,
};
use k8s_openapi::api::core::v1::{Namespace, NamespaceCondition, NamespaceStatus};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt;

use crate::desired::{BINDINGS, GuardRails, LIMITS, POLICIES, QUOTAS, guard_rails, namespace};
use crate::network::{Endpoints, Servers};
use crate::ownership::{Mismatch, Ownership, customer_of, ownership, remaining};

const ISOLATED: &str = include_str!("../fixtures/isolated.yaml");
const OPEN: &str = include_str!("../fixtures/open.yaml");

fn read(yaml: &str) -> CustomerNamespace {
    serde_saphyr::from_str(yaml).expect("the fixture is a CustomerNamespace")
}

fn rails(owner: &CustomerNamespace) -> GuardRails {
    let endpoints = Endpoints {
        fleets: "ahoi-system".into(),
        dns: vec!["169.254.20.10/32".into()],
        databases: vec!["192.0.2.0/24".into()],
    };
    let server = |host: &str| -> DatabaseServer {
        let spec = serde_json::json!({"host": host, "adminSecretRef": {"namespace": "ahoi-system", "name": "admin"}});
        DatabaseServer::new("any", serde_json::from_value(spec).expect("a DatabaseServer"))
    };
    guard_rails(
        owner,
        &endpoints,
        &Servers::of(&[server("pg.databases.svc"), server("pg.example.com")], &endpoints.databases),
    )
}

#[test]
fn an_isolated_namespace() {
    let owner = read(ISOLATED);
    let rails = rails(&owner);
    insta::assert_yaml_snapshot!("isolated_namespace", namespace(&owner));
    insta::assert_yaml_snapshot!("isolated_quota", rails.quota);
    insta::assert_yaml_snapshot!("isolated_limits", rails.limits);
    insta::assert_yaml_snapshot!("isolated_policies", rails.policies);
    insta::assert_yaml_snapshot!("isolated_bindings", rails.bindings);
}

/// PgBouncer fleets for customers with a pool in them, and PostgreSQL for customers with a database.
#[test]
fn egress_depends_on_pools_and_database() {
    let ports = |fleets: &[&str], direct_database| -> Vec<String> {
        let mut owner = read(ISOLATED);
        owner.spec.fleets = fleets.iter().map(|fleet| (*fleet).to_owned()).collect();
        owner.spec.direct_database = direct_database;
        rails(&owner).policies.iter().flat_map(egress_ports).collect()
    };
    assert_eq!(ports(&[], false), ["53", "53"]);
    assert_eq!(ports(&["global", "other"], false), ["53", "53", "6432"]);
    assert_eq!(ports(&["global"], true), ["53", "53", "6432", "5432"]);
}

fn egress_ports(policy: &NetworkPolicy) -> Vec<String> {
    let rules = policy.spec.iter().flat_map(|spec| spec.egress.iter().flatten());
    rules
        .flat_map(|rule| rule.ports.iter().flatten())
        .map(|port| match port.port.clone() {
            Some(IntOrString::Int(number)) => number.to_string(),
            other => format!("{other:?}"),
        })
        .collect()
}

#[test]
fn the_plan_restricts_tenant_network_policies() {
    let label = |owner: &CustomerNamespace| namespace(owner).labels()[TENANT_NETWORK_POLICIES_LABEL].clone();
    let mut owner = read(ISOLATED);
    assert_eq!(label(&owner), "within-namespace");
    owner.spec.guardrails.tenant_network_policies = TenantNetworkPolicies::Unrestricted;
    assert_eq!(label(&owner), "unrestricted");
    assert_eq!(label(&read(OPEN)), "unrestricted");
}

#[test]
fn empty_parts_of_the_spec_have_no_object() {
    let owner = read(OPEN);
    let rails = rails(&owner);
    assert!(rails.quota.is_none() && rails.limits.is_none() && rails.policies.is_empty() && rails.bindings.is_empty());
    assert_eq!(namespace(&owner).labels()["pod-security.kubernetes.io/enforce"], "baseline");
}

/// Obsolete guard rails are found by these names.
#[test]
fn every_name_is_known() {
    let rails = rails(&read(ISOLATED));
    let every = |names: &[&str], made: Vec<String>| made.iter().all(|name| names.contains(&name.as_str()));
    assert!(every(QUOTAS, rails.quota.iter().map(ResourceExt::name_any).collect()));
    assert!(every(LIMITS, rails.limits.iter().map(ResourceExt::name_any).collect()));
    assert!(every(POLICIES, rails.policies.iter().map(ResourceExt::name_any).collect()));
    assert!(every(BINDINGS, rails.bindings.iter().map(ResourceExt::name_any).collect()));
    assert_eq!((rails.policies.len(), rails.bindings.len()), (2, 2));
}

fn labelled(labels: &[(&str, &str)]) -> Namespace {
    let mut namespace = Namespace::default();
    namespace.metadata.name = Some("customer-small".into());
    namespace.metadata.labels = Some(labels.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect());
    namespace
}

#[test]
fn ownership_needs_both_labels() {
    let owner = read(OPEN);
    let uid = owner.uid().expect("the fixture has one");
    let find_owner = |uid: &str| (uid == "other").then(|| "big-client-0815".to_owned());
    let claimed = |labels: &[(&str, &str)]| ownership(&owner, &labelled(labels), find_owner);

    assert_eq!(claimed(&[(CUSTOMER_LABEL, "small"), (NAMESPACE_OWNER_LABEL, &uid)]), Ownership::Ours);
    assert_eq!(claimed(&[(CUSTOMER_LABEL, "small"), (NAMESPACE_OWNER_LABEL, "former")]), Ownership::Orphaned);
    assert_eq!(
        claimed(&[(CUSTOMER_LABEL, "small"), (NAMESPACE_OWNER_LABEL, "other")]),
        Ownership::Foreign(Mismatch::OwnedBy("big-client-0815".into()))
    );
    for incomplete in [
        &[][..],
        &[(CUSTOMER_LABEL, "small")],
        &[(NAMESPACE_OWNER_LABEL, &uid)],
        &[(CUSTOMER_LABEL, "small"), (NAMESPACE_OWNER_LABEL, "")],
        &[(CUSTOMER_LABEL, "big-client-0815"), (NAMESPACE_OWNER_LABEL, &uid)],
    ] {
        assert_eq!(claimed(incomplete), Ownership::Foreign(Mismatch::NotMarked), "{incomplete:?}");
    }
    // The desired namespace has both.
    assert_eq!(ownership(&owner, &namespace(&owner), |_| None), Ownership::Ours);
}

#[test]
fn the_customer_of_a_namespace() {
    assert_eq!(customer_of(&namespace(&read(OPEN)).name_any()), Some("small"));
    assert_eq!(customer_of("kube-system"), None);
}

#[test]
fn the_message_repeats_what_kubernetes_reports() {
    let mut namespace = labelled(&[]);
    assert_eq!(remaining(&namespace), "namespace customer-small is being deleted");
    let condition = |status: &str, message: &str| NamespaceCondition {
        status: status.into(),
        message: Some(message.into()),
        ..NamespaceCondition::default()
    };
    let conditions = vec![
        condition("False", "All legacy kube types successfully parsed"),
        condition("True", "Some resources are remaining: pods. has 1 resource instances"),
        condition(
            "True",
            "Some content in the namespace has finalizers remaining: example.com/hold in 1 resource instances",
        ),
    ];
    namespace.status = Some(NamespaceStatus { conditions: Some(conditions), phase: Some("Terminating".into()) });
    assert_eq!(
        remaining(&namespace),
        "namespace customer-small is being deleted: Some resources are remaining: pods. has 1 resource instances; Some \
         content in the namespace has finalizers remaining: example.com/hold in 1 resource instances"
    );
}
