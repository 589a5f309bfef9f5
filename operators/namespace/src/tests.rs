use ahoi_api::{CUSTOMER_LABEL, CustomerNamespace, NAMESPACE_OWNER_LABEL};
use k8s_openapi::api::core::v1::{Namespace, NamespaceCondition, NamespaceStatus};
use kube::ResourceExt;

use crate::desired::{BINDINGS, LIMITS, POLICIES, QUOTAS, guard_rails, namespace};
use crate::ownership::{Claim, Reason, claim, customer_of, remaining};

const ISOLATED: &str = include_str!("../fixtures/isolated.yaml");
const OPEN: &str = include_str!("../fixtures/open.yaml");

fn read(yaml: &str) -> CustomerNamespace {
    serde_saphyr::from_str(yaml).expect("the fixture is a CustomerNamespace")
}

#[test]
fn an_isolated_namespace() {
    let owner = read(ISOLATED);
    let rails = guard_rails(&owner, &[5432, 6432]);
    insta::assert_yaml_snapshot!("isolated_namespace", namespace(&owner));
    insta::assert_yaml_snapshot!("isolated_quota", rails.quota);
    insta::assert_yaml_snapshot!("isolated_limits", rails.limits);
    insta::assert_yaml_snapshot!("isolated_policies", rails.policies);
    insta::assert_yaml_snapshot!("isolated_bindings", rails.bindings);
}

#[test]
fn what_the_spec_leaves_empty_is_not_made() {
    let owner = read(OPEN);
    let rails = guard_rails(&owner, &[5432]);
    assert!(rails.quota.is_none() && rails.limits.is_none() && rails.policies.is_empty() && rails.bindings.is_empty());
    assert_eq!(namespace(&owner).labels()["pod-security.kubernetes.io/enforce"], "baseline");
}

/// One that is no longer wanted is found by its name alone.
#[test]
fn every_name_is_known() {
    let rails = guard_rails(&read(ISOLATED), &[5432]);
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
fn whose_a_namespace_is() {
    let owner = read(OPEN);
    let uid = owner.uid().expect("the fixture has one");
    let living = |uid: &str| (uid == "other").then(|| "big-client-0815".to_owned());
    let claimed = |labels: &[(&str, &str)]| claim(&owner, &labelled(labels), living);

    assert_eq!(claimed(&[(CUSTOMER_LABEL, "small"), (NAMESPACE_OWNER_LABEL, &uid)]), Claim::Ours);
    assert_eq!(claimed(&[(CUSTOMER_LABEL, "small"), (NAMESPACE_OWNER_LABEL, "former")]), Claim::Orphan);
    assert_eq!(
        claimed(&[(CUSTOMER_LABEL, "small"), (NAMESPACE_OWNER_LABEL, "other")]),
        Claim::Foreign(Reason::OwnedBy("big-client-0815".into()))
    );
    for by_hand in [
        &[][..],
        &[(CUSTOMER_LABEL, "small")],
        &[(NAMESPACE_OWNER_LABEL, &uid)],
        &[(CUSTOMER_LABEL, "small"), (NAMESPACE_OWNER_LABEL, "")],
        &[(CUSTOMER_LABEL, "big-client-0815"), (NAMESPACE_OWNER_LABEL, &uid)],
    ] {
        assert_eq!(claimed(by_hand), Claim::Foreign(Reason::NotMarked), "{by_hand:?}");
    }
    // What is made is what is recognised.
    assert_eq!(claim(&owner, &namespace(&owner), |_| None), Claim::Ours);
}

#[test]
fn the_customer_of_a_namespace() {
    assert_eq!(customer_of(&namespace(&read(OPEN)).name_any()), Some("small"));
    assert_eq!(customer_of("kube-system"), None);
}

#[test]
fn what_remains_is_told_in_kubernetes_words() {
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
