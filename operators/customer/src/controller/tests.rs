//! Reconciles of a customer, against an API server in memory.

use std::sync::Arc;

use ahoi_api::{
    CUSTOMER_LABEL, CustomerSpec, Database, DeletionPolicy, NAMESPACE_OWNER_LABEL, NamespaceDeletionPolicy, PlanSpec,
};
use ahoi_reconcile::testing::{ApiServer, cache, changed, gone, ready, unreadable};
use ahoi_reconcile::{Conditioned, ObjectRef, Owned, conditions};
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::CustomResourceExt;
use serde_json::{Value, json};

use super::*;
use crate::children::only_child;
use crate::children::unlinked;
use crate::features::database::spec::database_child;
use crate::plans::DEFAULT_PLAN;

const NETWORK: &str = "PUT /apis/internal.example.com/v1/customernamespaces/acme";
const STATUS: &str = "PATCH /apis/internal.example.com/v1/customers/acme/status";
const CREATE: &str = "POST /apis/internal.example.com/v1/namespaces/customer-acme/databases";
const DELETE: &str = "DELETE /apis/internal.example.com/v1/namespaces/customer-acme/databases/acme";

/// An API server with one customer.
struct World {
    api: ApiServer,
    controller: CustomerController,
}

impl World {
    fn new(spec: Value) -> Self {
        let api = ApiServer::new();
        api.put(&Customer::crd());
        let mut customer = Customer::new("acme", serde_json::from_value(spec).unwrap());
        customer.metadata.finalizers = Some(vec![finalizers::CUSTOMER.to_owned()]);
        let customers = cache([api.put(&customer)]);
        let platform = api.platform();
        let controller = CustomerController {
            plans: cache([]),
            children: Children::empty(&platform),
            limiter: AdmissionLimiter::default(),
            trigger: Controller::new(&platform, &customers).trigger(),
            throttle: StatusThrottle::new(PROGRESS_DELAY),
            customers,
            platform,
        };
        World { api, controller }
    }

    /// With a Ready database.
    async fn with_database(spec: Value) -> Self {
        let world = World::new(spec);
        world.reconcile().await.unwrap();
        world.make_ready(&world.controller.children.namespace);
        world.reconcile().await.unwrap();
        world.make_ready(&world.controller.children.database);
        world.reconcile().await.unwrap();
        world.api.take_requests();
        world
    }

    fn customer(&self) -> Arc<Customer> {
        self.controller.customers.get("acme").unwrap()
    }

    fn is_retained(&self) -> bool {
        self.customer().status.as_ref().is_some_and(|status| status.database_retained)
    }

    fn database(&self) -> Option<Arc<Database>> {
        only_child(&self.controller.children.database, &self.customer())
    }

    fn stalled(&self) -> conditions::Condition {
        let status = self.customer().status.clone().unwrap();
        conditions::find(&status.conditions, "Stalled").cloned().expect("it is not Stalled")
    }

    /// Changes the Customer.
    fn change(&self, change: impl FnOnce(&mut Customer)) {
        let mut customer = (*self.customer()).clone();
        change(&mut customer);
        changed(&self.controller.customers, self.api.put(&customer));
    }

    fn specify(&self, spec: Value) {
        let spec: CustomerSpec = serde_json::from_value(spec).unwrap();
        self.change(|customer| {
            customer.spec = spec;
            customer.metadata.generation = customer.metadata.generation.map(|generation| generation + 1);
        });
    }

    fn delete(&self, ago: Duration) {
        self.change(|customer| customer.metadata.deletion_timestamp = Some(Time(Timestamp::now() - ago)));
    }

    /// Makes the customer's child of this kind Ready, as its controller does.
    fn make_ready<C: Conditioned>(&self, children: &Owned<C>) {
        let child = only_child(children, &self.customer()).unwrap();
        changed(children.cache(), self.api.put(&ready((*child).clone())));
    }

    /// Removes the deleted Database, as its controller does.
    fn clean_up_database(&self) {
        let database = self.database().unwrap();
        assert!(database.metadata.deletion_timestamp.is_some(), "it is not being deleted");
        self.api.remove(&*database);
        gone(self.controller.children.database.cache(), (*database).clone());
    }

    /// One reconcile, with its status.
    async fn reconcile(&self) -> Result<(), Error> {
        let status = self.controller.reconcile(&self.customer()).await?.status;
        self.change(|customer| customer.status = Some(status));
        Ok(())
    }

    /// What the cleanup waits for.
    async fn waits(&self) -> String {
        let error = self.controller.cleanup(&self.customer()).await.unwrap_err();
        assert_eq!(error.class(), ahoi_reconcile::Class::Waiting, "{error:?}");
        error.to_string()
    }
}

/// Without a pool, which the tests would have to wait for.
fn with(on: bool, policy: &str) -> Value {
    let features = json!({"database": {"enabled": on}, "connectionPool": {"enabled": false}});
    json!({"deletionPolicy": policy, "features": features})
}

#[tokio::test]
async fn a_deleted_default_plan_changes_nothing() {
    let world = World::new(json!({}));
    let features = json!({"features": {"database": {"enabled": true}, "connectionPool": {"enabled": false}}});
    let plan = world.api.put(&Plan::new(DEFAULT_PLAN, serde_json::from_value(features).unwrap()));
    changed(&world.controller.plans, plan.clone());
    world.reconcile().await.unwrap();
    world.make_ready(&world.controller.children.namespace);
    world.reconcile().await.unwrap();
    assert!(world.database().is_some());
    world.api.take_requests();

    gone(&world.controller.plans, plan);
    world.reconcile().await.unwrap();
    let stalled = world.stalled();
    assert_eq!(stalled.reason, "PlanNotFound");
    assert!(stalled.message.contains("Plan default") && stalled.message.contains("create it"), "{stalled:?}");
    assert!(world.api.take_writes().is_empty(), "a child was changed");
}

/// A transient failure, as of an overloaded API server.
#[tokio::test]
async fn a_feature_that_cannot_be_written_blocks_no_other() {
    let world = World::with_database(with(true, "Retain")).await;
    let mut spec = with(true, "Retain");
    spec["groups"] = json!([{"group": "ops"}]);
    spec["features"]["database"]["storage"] = json!("20Gi");
    world.specify(spec);
    let failure = json!({"kind": "Status", "status": "Failure", "code": 500, "message": "out of order"});
    world.api.answer_next("PUT", 500, failure);
    let error = world.reconcile().await.unwrap_err();
    assert_eq!(error.class(), ahoi_reconcile::Class::Transient);
    assert!(error.to_string().contains("out of order"), "{error}");
    assert_eq!(world.database().unwrap().spec.storage, ahoi_api::Size::from("20Gi"), "the database waited");
}

/// Groups take effect although the API server refuses the rest.
#[tokio::test]
async fn groups_are_revoked_from_a_refused_namespace() {
    let mut spec = with(true, "Retain");
    spec["groups"] = json!([{"group": "ops"}]);
    let world = World::with_database(spec).await;
    let guardrails = json!({"guardrails": {"network": "Open"}});
    changed(
        &world.controller.plans,
        world.api.put(&Plan::new(DEFAULT_PLAN, serde_json::from_value(guardrails).unwrap())),
    );
    world.specify(with(true, "Retain"));
    let refusal =
        json!({"kind": "Status", "status": "Failure", "code": 403, "message": "spec.guardrails: not this one"});
    world.api.answer_next("PUT", 403, refusal);
    world.reconcile().await.unwrap();
    let stalled = world.stalled();
    assert_eq!(stalled.reason, "Refused");
    for word in
        ["namespace: spec.guardrails: not this one", "correct spec.groups", "spec.guardrails of the Plan default"]
    {
        assert!(stalled.message.contains(word), "{word:?} is not in {:?}", stalled.message);
    }
    let namespace = only_child(&world.controller.children.namespace, &world.customer()).unwrap();
    assert_eq!(
        (namespace.spec.groups.len(), namespace.spec.guardrails.network),
        (0, ahoi_api::NetworkIsolation::Isolated)
    );
}

#[tokio::test]
async fn a_customer_over_its_plan_is_current_but_for_the_field_that_exceeds_it() {
    let world = World::with_database(with(true, "Retain")).await;
    let plan: ahoi_api::PlanSpec = serde_json::from_value(json!({"limits": {"maxStorage": "100gb"}})).unwrap();
    changed(&world.controller.plans, world.api.put(&Plan::new(DEFAULT_PLAN, plan)));
    let mut spec = with(true, "Retain");
    spec["groups"] = json!([{"group": "ops"}]);
    spec["features"]["database"]["storage"] = json!("20tb");
    spec["features"]["database"]["connectionLimit"] = json!(7);
    world.specify(spec);
    world.reconcile().await.unwrap();
    assert_eq!(world.stalled().reason, "ExceedsPlan");
    let database = world.database().unwrap();
    assert_eq!((database.spec.storage.0.as_str(), database.spec.connection_limit), ("10Gi", Some(7)));
    let namespace = only_child(&world.controller.children.namespace, &world.customer()).unwrap();
    assert_eq!(namespace.spec.groups.len(), 1);
    let status = world.customer().status.clone().unwrap();
    assert_eq!(status.storage_bytes, Some(10 << 30), "the size in force");
    world.api.take_writes();
    world.reconcile().await.unwrap();
    assert!(world.api.take_writes().is_empty(), "it is written once");
}

#[tokio::test]
async fn a_plan_that_cannot_be_read_changes_nothing() {
    let world = World::new(json!({}));
    unreadable(&world.controller.plans, &Plan::new("default", PlanSpec::default()));
    world.reconcile().await.unwrap();
    let stalled = world.stalled();
    assert_eq!(stalled.reason, "Unreadable");
    assert!(stalled.message.contains("cannot read Plan default"), "{stalled:?}");
    let written = world.api.take_writes();
    assert!(written.iter().all(|write| write.ends_with("/status")), "the built-in defaults were applied: {written:?}");
}

#[tokio::test]
async fn a_customer_that_never_used_a_default_plan_needs_none() {
    let world = World::new(json!({}));
    for _ in 0..2 {
        world.reconcile().await.unwrap();
    }
    assert_eq!(world.customer().status.as_ref().unwrap().plan, None);
}

#[tokio::test]
async fn retained_data_is_recorded_before_its_database_is_deleted() {
    let world = World::with_database(with(true, "Delete")).await;
    assert!(!world.is_retained());
    world.specify(with(false, "Delete"));
    world.controller.reconcile(&world.customer()).await.unwrap();
    // The namespace is closed to PostgreSQL before the database is deleted.
    assert_eq!(world.api.take_writes(), [STATUS, NETWORK, DELETE]);
    assert!(world.is_retained());

    world.reconcile().await.unwrap();
    world.clean_up_database();
    world.reconcile().await.unwrap();
    assert!(world.is_retained() && world.database().is_none());
    assert!(world.api.take_writes().is_empty(), "it is recorded once");

    world.specify(with(true, "Delete"));
    world.reconcile().await.unwrap();
    // The namespace is opened to PostgreSQL first.
    world.make_ready(&world.controller.children.namespace);
    world.reconcile().await.unwrap();
    assert!(world.is_retained(), "the new Database may not have adopted it yet");
    world.make_ready(&world.controller.children.database);
    world.reconcile().await.unwrap();
    assert!(!world.is_retained());
}

/// A customer whose database was turned off and deleted.
async fn turned_off(policy: &str) -> World {
    let world = World::with_database(with(true, policy)).await;
    world.specify(with(false, policy));
    world.reconcile().await.unwrap();
    world.clean_up_database();
    world.reconcile().await.unwrap();
    world.api.take_requests();
    world
}

#[tokio::test]
async fn the_policy_of_the_customer_applies_to_data_of_a_disabled_feature() {
    let world = turned_off("Delete").await;
    world.delete(Duration::ZERO);
    let message = world.waits().await;
    assert!(message.contains("again") && message.contains("deleted"), "{message}");
    assert_eq!(world.api.take_writes(), [CREATE]);
    assert_eq!(world.database().unwrap().spec.deletion_policy, DeletionPolicy::Delete);
    assert_eq!(world.database().unwrap().metadata.finalizers, Some(vec![finalizers::DATABASE.to_owned()]));

    world.waits().await;
    assert!(world.api.take_writes().is_empty(), "the Database may not have adopted the data yet");

    world.make_ready(&world.controller.children.database);
    world.waits().await;
    assert_eq!(world.api.take_writes(), [STATUS, DELETE]);
    world.waits().await;
    assert!(world.api.take_writes().is_empty());

    world.clean_up_database();
    world.waits().await;
    let writes = world.api.take_writes();
    assert!(!writes.is_empty() && writes.iter().all(|write| write.contains("customernamespaces")), "{writes:?}");
}

#[tokio::test]
async fn data_of_a_disabled_feature_is_kept_under_retain() {
    let world = turned_off("Retain").await;
    world.delete(Duration::ZERO);
    world.waits().await;
    assert!(world.database().is_none());
}

#[tokio::test]
async fn a_database_that_was_deleted_earlier_is_created_again() {
    let world = World::with_database(with(true, "Archive")).await;
    world.controller.children.database.delete(&world.database().unwrap()).await.unwrap();
    world.delete(Duration::ZERO);
    world.waits().await;
    assert!(world.is_retained());
    world.api.take_writes();
    world.waits().await;
    assert!(world.api.take_writes().is_empty(), "it waits for its deletion");

    world.clean_up_database();
    let message = world.waits().await;
    assert!(message.contains("archived"), "{message}");
    assert_eq!(world.database().unwrap().spec.deletion_policy, DeletionPolicy::Archive);
}

/// A Database that never becomes Ready, for example without a server.
#[tokio::test]
async fn data_that_cannot_be_adopted_blocks_no_deletion_for_ever() {
    let world = turned_off("Delete").await;
    world.delete(Duration::from_secs(2 * 3600));
    world.waits().await;
    world.api.take_writes();
    world.waits().await;
    assert_eq!(world.api.take_writes(), [STATUS, DELETE], "the Database is as old as this API server's clock");
    world.clean_up_database();
    world.waits().await;
    assert!(world.database().is_none(), "it is not created once more");
}

#[tokio::test]
async fn a_missing_namespace_blocks_no_deletion_for_ever() {
    let answer = || {
        let details = json!({"kind": "namespaces", "name": "customer-acme"});
        json!({"kind": "Status", "status": "Failure", "code": 404, "reason": "NotFound", "details": details})
    };
    let world = turned_off("Delete").await;
    world.delete(Duration::ZERO);
    world.api.answer_next("POST", 404, answer());
    assert!(world.waits().await.contains("namespace customer-acme"));
    assert!(world.is_retained());

    world.delete(Duration::from_secs(2 * 3600));
    world.api.answer_next("POST", 404, answer());
    world.waits().await;
    assert!(!world.is_retained() && world.database().is_none());
}

/// Deleting the definition deletes all Customers, which is rarely intended.
#[tokio::test]
async fn nothing_is_created_while_the_definition_is_being_deleted() {
    let world = turned_off("Delete").await;
    world.delete(Duration::ZERO);
    world.api.remove(&Customer::crd());
    world.controller.cleanup(&world.customer()).await.unwrap();
    assert!(world.database().is_none());
    assert!(world.api.take_writes().is_empty());
}

/// Kubernetes would delete the Database as soon as it is created.
#[tokio::test]
async fn nothing_is_created_before_a_foreground_deletion_has_ended() {
    let world = turned_off("Delete").await;
    world.delete(Duration::ZERO);
    world.change(|customer| customer.metadata.finalizers = Some(vec!["foregroundDeletion".to_owned()]));
    assert!(world.waits().await.contains("--cascade=foreground"));
    assert!(world.is_retained() && world.database().is_none());
    assert!(world.api.take_writes().is_empty());
}

/// Kubernetes has deleted the children, which left namespace and data behind.
#[tokio::test]
async fn what_a_foreground_deletion_leaves_is_removed() {
    for (policy, is_removed) in [("Delete", true), ("Archive", true), ("Retain", false)] {
        let world = World::with_database(with(true, policy)).await;
        let mut left: Namespace = serde_json::from_value(json!({"metadata": {"name": "customer-acme"}})).unwrap();
        left.labels_mut().insert(CUSTOMER_LABEL.to_owned(), "acme".to_owned());
        left.labels_mut().insert(NAMESPACE_OWNER_LABEL.to_owned(), "the CustomerNamespace's uid".to_owned());
        world.api.put(&left);
        let children = &world.controller.children;
        let namespace = only_child(&children.namespace, &world.customer()).unwrap();
        world.api.remove(&*namespace);
        gone(children.namespace.cache(), (*namespace).clone());
        let database = world.database().unwrap();
        world.api.remove(&*database);
        gone(children.database.cache(), (*database).clone());

        world.delete(Duration::ZERO);
        assert!(world.waits().await.contains("taken back"));
        assert_eq!(world.is_retained(), is_removed, "{policy}");
        let namespace = only_child(&children.namespace, &world.customer()).unwrap();
        assert_eq!(namespace.spec.deletion_policy, NamespaceDeletionPolicy::Delete);
        world.waits().await;
        assert!(world.database().is_none(), "the namespace is not taken back yet");
        world.make_ready(&children.namespace);
        world.waits().await;
        assert_eq!(world.database().is_some(), is_removed, "{policy}");
    }
}

/// A namespace without both labels belongs to another owner.
#[tokio::test]
async fn a_namespace_without_our_labels_is_left_alone() {
    let world = World::new(with(false, "Delete"));
    let foreign: Namespace = serde_json::from_value(json!({"metadata": {"name": "customer-acme"}})).unwrap();
    world.api.put(&foreign);
    world.delete(Duration::ZERO);
    world.controller.cleanup(&world.customer()).await.unwrap();
    assert!(world.api.take_writes().is_empty() && world.api.get(&foreign).is_some());
}

/// Takes the owner reference from the customer's child, as a restore of a backup and an orphaning deletion do.
fn unlink<C: Conditioned>(world: &World, children: &Owned<C>) {
    let Some(child) = only_child(children, &world.customer()) else { return };
    let mut unlinked = (*child).clone();
    unlinked.owner_references_mut().clear();
    changed(children.cache(), world.api.put(&unlinked));
}

fn unlink_all(world: &World) {
    let children = &world.controller.children;
    unlink(world, &children.namespace);
    unlink(world, &children.database);
    unlink(world, &children.connection_pool);
    unlink(world, &children.scheduler);
}

#[tokio::test]
async fn restored_children_are_adopted() {
    let world = World::with_database(with(true, "Retain")).await;
    unlink_all(&world);
    let database = world.database().unwrap();
    world.reconcile().await.unwrap();
    world.reconcile().await.unwrap();
    let status = world.customer().status.clone().unwrap();
    assert_eq!(conditions::find(&status.conditions, "Stalled"), None);
    let adopted = world.api.get(&*database).unwrap();
    assert_eq!(
        (adopted.uid(), adopted.owner_references()[0].uid.clone()),
        (database.uid(), world.customer().uid().unwrap())
    );
}

#[tokio::test]
async fn a_restored_child_of_a_feature_that_is_off_is_removed() {
    let world = World::with_database(with(true, "Retain")).await;
    unlink_all(&world);
    world.specify(with(false, "Retain"));
    world.reconcile().await.unwrap();
    assert!(world.database().unwrap().metadata.deletion_timestamp.is_some());
}

/// With --cascade=orphan Kubernetes takes the owner references away while the Customer still has its finalizer.
#[tokio::test]
async fn an_orphaning_deletion_removes_what_the_customer_has() {
    for (policy, kept) in [("Delete", DeletionPolicy::Delete), ("Archive", DeletionPolicy::Archive)] {
        let world = World::with_database(with(true, policy)).await;
        unlink_all(&world);
        world.delete(Duration::ZERO);
        world.waits().await;
        let database = world.database().unwrap();
        assert!(database.metadata.deletion_timestamp.is_some());
        assert_eq!(database.spec.deletion_policy, kept);
        world.clean_up_database();
        world.waits().await;
        let namespace = only_child(&world.controller.children.namespace, &world.customer()).unwrap();
        assert!(namespace.metadata.deletion_timestamp.is_some());
        assert_eq!(namespace.spec.deletion_policy, NamespaceDeletionPolicy::Delete);
    }
}

#[test]
fn a_child_without_an_owner_triggers_the_customer_of_its_label() {
    let mut child = database_child("acme", serde_json::from_value(json!({"storage": "1gb"})).unwrap());
    assert_eq!(unlinked(&child), Some(ObjectRef::new("acme")));
    let owner = serde_json::from_value(json!({"apiVersion": "v1", "kind": "A", "name": "a", "uid": "u"})).unwrap();
    child.metadata.owner_references = Some(vec![owner]);
    assert_eq!(unlinked(&child), None, "its owner reference names the customer");
}
