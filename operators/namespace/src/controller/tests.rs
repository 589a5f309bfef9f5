//! Guard rails that somebody has changed, pass by pass, against an API server in memory.

use ahoi_reconcile::testing::{ApiServer, changed, gone};
use k8s_openapi::api::networking::v1::{NetworkPolicyIngressRule, NetworkPolicySpec};
use k8s_openapi::api::rbac::v1::RoleRef;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{OwnerReference, Time};

use super::*;

const ISOLATED: &str = include_str!("../../fixtures/isolated.yaml");
const NAMESPACE: &str = "customer-big-client-0815";
const POLICIES_OF: &str = "/apis/networking.k8s.io/v1/namespaces/customer-big-client-0815/networkpolicies";
const BINDINGS_OF: &str = "/apis/rbac.authorization.k8s.io/v1/namespaces/customer-big-client-0815/rolebindings";

/// A customer whose namespace is as it should be.
struct World {
    api: ApiServer,
    controller: NamespaceController,
    owner: CustomerNamespace,
}

impl World {
    async fn settled() -> Self {
        let api = ApiServer::new();
        let options = NamespaceOptions { database_cidrs: Vec::new(), dns_cidrs: Vec::new() };
        let controller = NamespaceController::new(&api.platform(), options);
        let account = ServiceAccount { automount_service_account_token: Some(false), ..at("default") };
        changed(&controller.accounts, account);
        let owner = serde_saphyr::from_str(ISOLATED).expect("the fixture is a CustomerNamespace");
        let world = World { api, controller, owner };
        world.pass().await.unwrap();
        world.api.take_writes();
        world.watched(&world.controller.policies, POLICIES);
        world.watched(&world.controller.bindings, BINDINGS);
        world.watched(&world.controller.quotas, QUOTAS);
        world.pass().await.unwrap();
        assert!(world.api.take_writes().is_empty(), "what is as it should be is left alone");
        world
    }

    /// The watch tells of all that was written, in its order: of what it has passed over it would be silent because it is gone.
    fn watched<K: Object + Default>(&self, owned: &Owned<K>, names: &[&str]) {
        let version = |rail: &K| rail.meta().resource_version.as_ref().and_then(|version| version.parse::<u64>().ok());
        let mut rails: Vec<K> = names.iter().filter_map(|name| self.live(name)).collect();
        rails.sort_by_key(version);
        rails.into_iter().for_each(|rail| changed(owned.cache(), rail));
    }

    async fn pass(&self) -> Result<(), Error> {
        self.controller.reconcile(&self.owner).await.map(drop)
    }

    fn live<K: Object + Default>(&self, name: &str) -> Option<K> {
        self.api.get(&at(name))
    }

    /// What `default-deny` says.
    fn denied(&self) -> Option<NetworkPolicySpec> {
        self.live::<NetworkPolicy>("default-deny").and_then(|policy| policy.spec)
    }

    /// Has the API server take a change, and count it where it counts.
    fn change<K: Object>(&self, mut object: K) -> K {
        let generation = object.meta().generation.map(|generation| generation + 1);
        object.meta_mut().generation = generation;
        self.api.put(&object)
    }

    /// Somebody changes `default-deny` so that everything comes in, and does `more` to it, and the watch tells.
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
    let world = World::settled().await;
    let before = world.denied();
    world.open(unlabel);
    world.pass().await.unwrap();
    assert_eq!(world.api.take_writes(), [format!("POST {POLICIES_OF}"), format!("PUT {POLICIES_OF}/default-deny")]);
    assert_eq!(world.denied(), before);
    let policy: NetworkPolicy = world.live("default-deny").unwrap();
    assert_eq!(policy.labels().get(GUARD_RAIL_LABEL), world.owner.metadata.name.as_ref());
    world.pass().await.unwrap();
    assert!(world.api.take_writes().is_empty());
}

#[tokio::test]
async fn a_guard_rail_with_another_customers_label_is_taken_back() {
    let world = World::settled().await;
    let before = world.denied();
    world.open(|policy| {
        policy.labels_mut().insert(GUARD_RAIL_LABEL.to_owned(), "small".to_owned());
        // The label wakes the other one; whose namespace it is has to be told as well.
        assert_eq!(mislabelled(policy).map(|customer| customer.name), Some("big-client-0815".to_owned()));
    });
    world.pass().await.unwrap();
    assert_eq!(world.api.take_writes(), [format!("PUT {POLICIES_OF}/default-deny")]);
    assert_eq!(world.denied(), before);
    let policy: NetworkPolicy = world.live("default-deny").unwrap();
    assert!(mislabelled(&policy).is_none());
}

/// A policy that is deleted and made again is open in between.
#[tokio::test]
async fn a_rule_that_was_added_to_a_policy_goes_without_the_policy_going() {
    let world = World::settled().await;
    let before = world.denied();
    world.open(|_| ());
    world.pass().await.unwrap();
    assert_eq!(world.api.take_writes(), [format!("PUT {POLICIES_OF}/default-deny")]);
    assert_eq!(world.denied(), before);
}

#[tokio::test]
async fn who_left_loses_the_rights_whatever_becomes_of_a_policy() {
    let mut world = World::settled().await;
    // Somebody else's controller has it: this one is not put right, and everything else is.
    world.open(|policy| {
        unlabel(policy);
        let controller = OwnerReference { controller: Some(true), uid: "theirs".into(), ..OwnerReference::default() };
        policy.metadata.owner_references = Some(vec![controller]);
    });
    let other: NetworkPolicy = world.live("allow-platform").unwrap();
    world.api.remove(&other);
    gone(world.controller.policies.cache(), other);
    world.owner.spec.groups.retain(|binding| binding.group == "auditors");

    let error = world.pass().await.unwrap_err();
    assert_eq!(error.reason(), "NameConflict");
    assert!(world.live::<RoleBinding>("customer-edit").is_none(), "a group that left keeps its rights");
    let view: RoleBinding = world.live("customer-view").unwrap();
    assert_eq!(view.subjects.unwrap_or_default().len(), 1);
    assert!(world.live::<NetworkPolicy>("allow-platform").is_some(), "one policy keeps another from being made");
    let writes = world.api.take_writes();
    let first = [format!("DELETE {BINDINGS_OF}/customer-edit"), format!("PUT {BINDINGS_OF}/customer-view")];
    assert_eq!(writes[..2], first);
}

#[tokio::test]
async fn a_guard_rail_that_a_finalizer_keeps_is_kept_right_and_keeps_nothing_else_waiting() {
    let mut world = World::settled().await;
    let before = world.denied();
    world.open(|policy| {
        unlabel(policy);
        policy.finalizers_mut().push("example.com/hold".to_owned());
        policy.metadata.deletion_timestamp = Some(Time("2026-01-01T00:00:00Z".parse().unwrap()));
    });
    world.owner.spec.groups.clear();
    for _ in 0..2 {
        assert_eq!(world.pass().await.unwrap_err().reason(), "WaitingForDeletion");
        assert_eq!(world.denied(), before, "it stands as long as it is there");
    }
    assert!(world.live::<RoleBinding>("customer-edit").is_none());
    world.api.take_writes();
    assert_eq!(world.pass().await.unwrap_err().reason(), "WaitingForDeletion");
    assert!(world.api.take_writes().is_empty(), "waiting writes nothing");

    let policy: NetworkPolicy = world.live("default-deny").unwrap();
    world.api.remove(&policy);
    gone(world.controller.policies.cache(), policy);
    world.pass().await.unwrap();
    assert_eq!(world.denied(), before);
}

#[tokio::test]
async fn what_cannot_be_changed_is_made_anew() {
    let world = World::settled().await;
    let mut binding: RoleBinding = world.live("customer-view").unwrap();
    binding.role_ref = RoleRef { name: "admin".to_owned(), ..binding.role_ref };
    changed(world.controller.bindings.cache(), world.change(binding));
    let mut quota: ResourceQuota = world.live("customer").unwrap();
    quota.spec.as_mut().unwrap().scopes = Some(vec!["Terminating".to_owned()]);
    changed(world.controller.quotas.cache(), world.change(quota));

    world.pass().await.unwrap();
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
    world.pass().await.unwrap();
    assert!(world.api.take_writes().is_empty());
}
