//! Reconciles of modified guard rails, against an API server in memory.

use ahoi_reconcile::testing::{ApiServer, changed, gone};
use k8s_openapi::api::networking::v1::{NetworkPolicyIngressRule, NetworkPolicySpec};
use k8s_openapi::api::rbac::v1::RoleRef;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{OwnerReference, Time};

use super::*;

const ISOLATED: &str = include_str!("../../fixtures/isolated.yaml");
const NAMESPACE: &str = "customer-big-client-0815";
const POLICIES_OF: &str = "/apis/networking.k8s.io/v1/namespaces/customer-big-client-0815/networkpolicies";
const BINDINGS_OF: &str = "/apis/rbac.authorization.k8s.io/v1/namespaces/customer-big-client-0815/rolebindings";

/// A customer whose namespace has been applied.
struct World {
    api: ApiServer,
    controller: NamespaceController,
    owner: CustomerNamespace,
}

impl World {
    async fn applied() -> Self {
        let api = ApiServer::new();
        let options = NamespaceOptions { database_cidrs: Vec::new(), dns_cidrs: Vec::new() };
        let controller = NamespaceController::new(&api.platform(), options);
        let account = ServiceAccount { automount_service_account_token: Some(false), ..at("default") };
        changed(&controller.accounts, account);
        let owner = serde_saphyr::from_str(ISOLATED).expect("the fixture is a CustomerNamespace");
        let world = World { api, controller, owner };
        world.reconcile().await.unwrap();
        world.api.take_writes();
        world.watched(&world.controller.policies, POLICIES);
        world.watched(&world.controller.bindings, BINDINGS);
        world.watched(&world.controller.quotas, QUOTAS);
        world.reconcile().await.unwrap();
        assert!(world.api.take_writes().is_empty(), "a second reconcile writes nothing");
        world
    }

    /// Adds what was written to the cache, in the order in which the watch reports it.
    fn watched<K: Object + Default>(&self, owned: &Owned<K>, names: &[&str]) {
        let version = |rail: &K| rail.meta().resource_version.as_ref().and_then(|version| version.parse::<u64>().ok());
        let mut rails: Vec<K> = names.iter().filter_map(|name| self.live(name)).collect();
        rails.sort_by_key(version);
        rails.into_iter().for_each(|rail| changed(owned.cache(), rail));
    }

    async fn reconcile(&self) -> Result<(), Error> {
        self.controller.reconcile(&self.owner).await.map(drop)
    }

    fn live<K: Object + Default>(&self, name: &str) -> Option<K> {
        self.api.get(&at(name))
    }

    /// The spec of `default-deny`.
    fn denied(&self) -> Option<NetworkPolicySpec> {
        self.live::<NetworkPolicy>("default-deny").and_then(|policy| policy.spec)
    }

    /// Stores a change in the API server, with a new generation if the kind has one.
    fn change<K: Object>(&self, mut object: K) -> K {
        let generation = object.meta().generation.map(|generation| generation + 1);
        object.meta_mut().generation = generation;
        self.api.put(&object)
    }

    /// Changes `default-deny` to allow all ingress, applies `more`, and updates the cache.
    fn open(&self, more: impl FnOnce(&mut NetworkPolicy)) {
        let mut policy: NetworkPolicy = self.live("default-deny").unwrap();
        policy.spec.as_mut().unwrap().ingress = Some(vec![NetworkPolicyIngressRule::default()]);
        more(&mut policy);
        let policy = self.change(policy);
        let policies = self.controller.policies.cache();
        if policy.labels().contains_key(GUARD_RAIL_LABEL) {
            changed(policies, policy);
        } else {
            gone(policies, policy);
        }
    }
}

fn at<K: Object + Default>(name: &str) -> K {
    let mut object = K::default();
    object.meta_mut().name = Some(name.to_owned());
    object.meta_mut().namespace = Some(NAMESPACE.to_owned());
    object
}

fn unlabel(policy: &mut NetworkPolicy) {
    policy.labels_mut().remove(GUARD_RAIL_LABEL);
}

#[tokio::test]
async fn a_guard_rail_without_its_label_is_taken_over() {
    let world = World::applied().await;
    let before = world.denied();
    world.open(unlabel);
    world.reconcile().await.unwrap();
    assert_eq!(world.api.take_writes(), [format!("POST {POLICIES_OF}"), format!("PUT {POLICIES_OF}/default-deny")]);
    assert_eq!(world.denied(), before);
    let policy: NetworkPolicy = world.live("default-deny").unwrap();
    assert_eq!(policy.labels().get(GUARD_RAIL_LABEL), world.owner.metadata.name.as_ref());
    world.reconcile().await.unwrap();
    assert!(world.api.take_writes().is_empty());
}

#[tokio::test]
async fn a_guard_rail_with_another_customers_label_is_taken_back() {
    let world = World::applied().await;
    let before = world.denied();
    world.open(|policy| {
        policy.labels_mut().insert(GUARD_RAIL_LABEL.to_owned(), "small".to_owned());
        // The label triggers the other owner; the owner of the namespace is triggered as well.
        assert_eq!(mislabelled(policy).map(|customer| customer.name), Some("big-client-0815".to_owned()));
    });
    world.reconcile().await.unwrap();
    assert_eq!(world.api.take_writes(), [format!("PUT {POLICIES_OF}/default-deny")]);
    assert_eq!(world.denied(), before);
    let policy: NetworkPolicy = world.live("default-deny").unwrap();
    assert!(mislabelled(&policy).is_none());
}

/// A policy that is deleted and created again would be missing in between.
#[tokio::test]
async fn an_added_rule_is_removed_without_deleting_the_policy() {
    let world = World::applied().await;
    let before = world.denied();
    world.open(|_| ());
    world.reconcile().await.unwrap();
    assert_eq!(world.api.take_writes(), [format!("PUT {POLICIES_OF}/default-deny")]);
    assert_eq!(world.denied(), before);
}

#[tokio::test]
async fn revoked_groups_lose_their_rights_even_if_a_policy_fails() {
    let mut world = World::applied().await;
    // It belongs to another controller: it is not repaired, and everything else is.
    world.open(|policy| {
        unlabel(policy);
        let controller = OwnerReference { controller: Some(true), uid: "theirs".into(), ..OwnerReference::default() };
        policy.metadata.owner_references = Some(vec![controller]);
    });
    let other: NetworkPolicy = world.live("allow-platform").unwrap();
    world.api.remove(&other);
    gone(world.controller.policies.cache(), other);
    world.owner.spec.groups.retain(|binding| binding.group == "auditors");

    let error = world.reconcile().await.unwrap_err();
    assert_eq!(error.reason(), "NameConflict");
    assert!(world.live::<RoleBinding>("customer-edit").is_none(), "a removed group keeps its rights");
    let view: RoleBinding = world.live("customer-view").unwrap();
    assert_eq!(view.subjects.unwrap_or_default().len(), 1);
    assert!(world.live::<NetworkPolicy>("allow-platform").is_some(), "one policy blocks another");
    let writes = world.api.take_writes();
    let first = [format!("DELETE {BINDINGS_OF}/customer-edit"), format!("PUT {BINDINGS_OF}/customer-view")];
    assert_eq!(writes[..2], first);
}

#[tokio::test]
async fn a_guard_rail_with_a_finalizer_is_repaired_and_blocks_nothing() {
    let mut world = World::applied().await;
    let before = world.denied();
    world.open(|policy| {
        unlabel(policy);
        policy.finalizers_mut().push("example.com/hold".to_owned());
        policy.metadata.deletion_timestamp = Some(Time("2026-01-01T00:00:00Z".parse().unwrap()));
    });
    world.owner.spec.groups.clear();
    for _ in 0..2 {
        assert_eq!(world.reconcile().await.unwrap_err().reason(), "WaitingForDeletion");
        assert_eq!(world.denied(), before, "it is repaired while it exists");
    }
    assert!(world.live::<RoleBinding>("customer-edit").is_none());
    world.api.take_writes();
    assert_eq!(world.reconcile().await.unwrap_err().reason(), "WaitingForDeletion");
    assert!(world.api.take_writes().is_empty(), "waiting writes nothing");

    let policy: NetworkPolicy = world.live("default-deny").unwrap();
    world.api.remove(&policy);
    gone(world.controller.policies.cache(), policy);
    world.reconcile().await.unwrap();
    assert_eq!(world.denied(), before);
}

#[tokio::test]
async fn immutable_fields_are_changed_by_recreation() {
    let world = World::applied().await;
    let mut binding: RoleBinding = world.live("customer-view").unwrap();
    binding.role_ref = RoleRef { name: "admin".to_owned(), ..binding.role_ref };
    changed(world.controller.bindings.cache(), world.change(binding));
    let mut quota: ResourceQuota = world.live("customer").unwrap();
    quota.spec.as_mut().unwrap().scopes = Some(vec!["Terminating".to_owned()]);
    changed(world.controller.quotas.cache(), world.change(quota));

    world.reconcile().await.unwrap();
    assert_eq!(world.live::<RoleBinding>("customer-view").unwrap().role_ref.name, "view");
    assert!(!is_scoped(&world.live("customer").unwrap()));
    let quotas = format!("/api/v1/namespaces/{NAMESPACE}/resourcequotas");
    let expected = [
        format!("DELETE {BINDINGS_OF}/customer-view"),
        format!("POST {BINDINGS_OF}"),
        format!("DELETE {quotas}/customer"),
        format!("POST {quotas}"),
    ];
    assert_eq!(world.api.take_writes(), expected);
    world.reconcile().await.unwrap();
    assert!(world.api.take_writes().is_empty());
}
