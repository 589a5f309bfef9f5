use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{OwnerReference, Time};
use kube::ResourceExt;
use serde_json::json;

use super::{Ship, map, named, ship};
use crate::cache::Cache;
use crate::error::{Class, Error};
use crate::owned::Owned;
use crate::testing::{self, ApiServer};

fn cargo<const N: usize>(data: [(&str, &str); N]) -> ConfigMap {
    named(ConfigMap { data: Some(map(data)), ..ConfigMap::default() }, "port", "cargo")
}

/// The ship's ConfigMaps, as a cache that sees what is on the server now and hears nothing later.
fn owned(server: &ApiServer, seen: impl IntoIterator<Item = ConfigMap>) -> Owned<ConfigMap> {
    Owned::new(&server.platform(), &testing::cache(seen))
}

async fn refused(owned: &Owned<ConfigMap>, ship: &Ship, desired: ConfigMap) -> Error {
    owned.apply(ship, desired).await.expect_err("this must be refused")
}

#[tokio::test]
async fn creates_by_post_and_then_sends_nothing_although_the_watch_is_silent() {
    let server = ApiServer::new();
    let (ship, owned) = (ship(&server, "a"), owned(&server, []));
    for _ in 0..3 {
        let child = owned.apply(&ship, cargo([("rum", "12")])).await.unwrap();
        assert_eq!(child.owner_references()[0].controller, Some(true));
        assert_eq!(child.owner_references()[0].uid, ship.uid().unwrap());
    }
    assert_eq!(server.take_writes(), ["POST /api/v1/namespaces/port/configmaps"]);
    assert_eq!(owned.children(&ship).len(), 1);
}

#[tokio::test]
async fn after_a_restart_nothing_is_sent_for_what_is_right() {
    let server = ApiServer::new();
    let ship = ship(&server, "a");
    owned(&server, []).apply(&ship, cargo([("rum", "12")])).await.unwrap();
    let live = server.get(&cargo([])).unwrap();
    server.take_writes();
    owned(&server, [live]).apply(&ship, cargo([("rum", "12")])).await.unwrap();
    assert!(server.take_writes().is_empty());
}

#[tokio::test]
async fn a_change_is_a_put_that_drops_what_is_no_longer_desired_and_keeps_what_is_others() {
    let server = ApiServer::new();
    let ship = ship(&server, "a");
    let mut desired = cargo([("rum", "12"), ("salt", "1")]);
    desired.metadata.labels = Some(map([("ours", "1"), ("formerly-ours", "1")]));
    desired.metadata.annotations = Some(map([("formerly-ours", "1")]));
    owned(&server, []).apply(&ship, desired).await.unwrap();

    let mut live = server.get(&cargo([])).unwrap();
    live.labels_mut().insert("theirs".into(), "1".into());
    live.annotations_mut().insert("theirs".into(), "1".into());
    live.finalizers_mut().push("their/finalizer".into());
    let live = server.put(&live);
    server.take_requests();

    let mut desired = cargo([("rum", "13")]);
    desired.metadata.labels = Some(map([("ours", "2")]));
    let owned = owned(&server, [live]);
    for _ in 0..2 {
        owned.apply(&ship, desired.clone()).await.unwrap();
    }
    assert_eq!(server.take_writes(), ["PUT /api/v1/namespaces/port/configmaps/cargo"]);
    let live = server.get(&cargo([])).unwrap();
    assert_eq!(live.data, Some(map([("rum", "13")])));
    assert_eq!(live.metadata.labels, Some(map([("ours", "2"), ("theirs", "1")])));
    assert_eq!(live.finalizers(), ["their/finalizer"]);
    assert!(live.annotations().contains_key("theirs") && !live.annotations().contains_key("formerly-ours"));
}

#[tokio::test]
async fn what_is_merely_no_longer_desired_goes_too() {
    let server = ApiServer::new();
    let ship = ship(&server, "a");
    let owned = owned(&server, []);
    owned.apply(&ship, cargo([("rum", "12"), ("salt", "1")])).await.unwrap();
    server.take_writes();
    owned.apply(&ship, cargo([("rum", "12")])).await.unwrap();
    assert_eq!(server.take_writes(), ["PUT /api/v1/namespaces/port/configmaps/cargo"]);
    assert_eq!(server.get(&cargo([])).unwrap().data, Some(map([("rum", "12")])));
}

#[tokio::test]
async fn drift_is_repaired_and_additions_of_others_are_none() {
    let server = ApiServer::new();
    let ship = ship(&server, "a");
    owned(&server, []).apply(&ship, cargo([("rum", "12")])).await.unwrap();
    let mut live = server.get(&cargo([])).unwrap();
    live.data.as_mut().unwrap().insert("added".into(), "by somebody".into());
    let live = server.put(&live);
    server.take_requests();
    owned(&server, [live.clone()]).apply(&ship, cargo([("rum", "12")])).await.unwrap();
    assert!(server.take_writes().is_empty(), "defaults and additions are not drift");

    let mut drifted = live;
    drifted.data = Some(map([("rum", "0")]));
    let drifted = server.put(&drifted);
    owned(&server, [drifted]).apply(&ship, cargo([("rum", "12")])).await.unwrap();
    assert_eq!(server.get(&cargo([])).unwrap().data, Some(map([("rum", "12")])));
}

#[tokio::test]
async fn what_belongs_to_nobody_or_to_somebody_else_is_never_taken_over() {
    let server = ApiServer::new();
    let (ours, other) = (ship(&server, "a"), ship(&server, "b"));
    let nobodys = server.put(&cargo([]));
    let error = refused(&owned(&server, [nobodys]), &ours, cargo([("rum", "12")])).await;
    assert!(matches!(&error, Error::Structural { reason, .. } if reason == "NameConflict"));
    assert_eq!(
        error.to_string(),
        "ConfigMap port/cargo exists and does not belong to Ship a; it is left as it is. Delete it to let Ship a create \
         its own"
    );

    // The same where the cache does not know of it: the server says "exists", and one look tells whose it is.
    server.remove(&cargo([]));
    owned(&server, []).apply(&other, cargo([])).await.unwrap();
    server.take_requests();
    let error = refused(&owned(&server, []), &ours, cargo([])).await;
    assert_eq!(error.class(), Class::Structural);
    let methods: Vec<_> = server.take_requests().into_iter().map(|request| request.method).collect();
    assert_eq!(methods, ["POST", "GET"]);
}

/// Somebody has removed the owner reference, or put another one in its place, or a backup was restored without.
#[tokio::test]
async fn a_child_that_has_lost_its_owner_is_taken_back() {
    let server = ApiServer::new();
    let ship = ship(&server, "a");
    let mut desired = cargo([("rum", "12")]);
    desired.metadata.labels = Some(map([("ours", "1")]));
    let written = owned(&server, []).apply(&ship, desired.clone()).await.unwrap();
    let tenants = |kind: &str, api_version: &str| OwnerReference {
        api_version: api_version.into(),
        kind: kind.into(),
        name: "b".into(),
        uid: "b".into(),
        controller: Some(true),
        ..OwnerReference::default()
    };
    let former = OwnerReference { uid: "former".into(), ..written.owner_references()[0].clone() };
    for (owners, labels, is_taken_back) in [
        (None, Some(map([("ours", "1")])), true),
        (None, None, true),
        (Some(vec![tenants("ConfigMap", "v1")]), None, true),
        (None, Some(map([("ours", "2")])), false),
        (Some(vec![tenants("Ship", &written.owner_references()[0].api_version)]), None, false),
        (Some(vec![tenants("Database", "internal.example.com/v1")]), None, false),
        // The Ship of this name that was there before.
        (Some(vec![former.clone()]), None, true),
    ] {
        let mut lost = (*written).clone();
        (lost.metadata.owner_references, lost.metadata.labels) = (owners, labels);
        let lost = server.put(&lost);
        server.take_requests();
        let owned = owned(&server, [lost.clone()]);
        let answer = owned.apply(&ship, desired.clone()).await;
        assert_eq!(answer.is_ok(), is_taken_back, "{:?}", lost.metadata);
        owned.apply(&ship, desired.clone()).await.ok();
        let writes = if is_taken_back { vec![format!("PUT {CARGO}")] } else { vec![] };
        assert_eq!(server.take_writes(), writes);
        if is_taken_back {
            let controllers = |child: &ConfigMap| {
                child.owner_references().iter().filter(|owner| owner.controller == Some(true)).count()
            };
            let found = server.get(&lost).unwrap();
            assert_eq!(controllers(&found), 1);
            assert!(!found.owner_references().contains(&former), "garbage collection would delete it");
            assert_eq!(owned.children(&ship).len(), 1);
        }
    }
}

/// What an owner is to remove is found although nothing links it to the owner.
#[tokio::test]
async fn a_child_without_its_owner_is_found_by_its_name_and_labels() {
    let server = ApiServer::new();
    let ship = ship(&server, "a");
    let mut desired = cargo([("rum", "12")]);
    desired.metadata.labels = Some(map([("ours", "1")]));
    let written = owned(&server, []).apply(&ship, desired.clone()).await.unwrap();
    let mut lost = (*written).clone();
    lost.metadata.owner_references = None;
    let found = |child: &ConfigMap, like: &ConfigMap| owned(&server, [child.clone()]).orphan(&ship, &like.metadata);
    assert_eq!(found(&lost, &desired).as_deref(), Some(&lost));
    assert_eq!(found(&written, &desired), None, "it has its owner");

    let mut unlabelled = lost.clone();
    unlabelled.metadata.labels = None;
    assert_eq!(found(&unlabelled, &desired), None, "nothing says that it is this owner's");
    let mut squatted = lost.clone();
    squatted.metadata.annotations = None;
    assert_eq!(found(&squatted, &desired), None, "no controller of ours has written it");
    assert_eq!(found(&lost, &named(desired.clone(), "port", "ballast")), None);
}

fn invalid(message: &str) -> serde_json::Value {
    let details = json!({"kind": "ConfigMap", "causes": [{"reason": "FieldValueInvalid", "field": "data"}]});
    json!({"kind": "Status", "status": "Failure", "code": 422, "reason": "Invalid", "message": message, "details": details})
}

#[tokio::test]
async fn a_child_that_cannot_be_put_right_is_created_again_if_that_can_be() {
    let server = ApiServer::new();
    let ship = ship(&server, "a");
    let owned = owned(&server, []).recreated_if_refused();
    let child = owned.apply(&ship, cargo([("rum", "12")])).await.unwrap();
    server.take_requests();
    // A tenant has filled it with annotations.
    server.answer_next("PUT", 422, invalid("metadata.annotations: Too long"));
    owned.apply(&ship, cargo([("rum", "13")])).await.unwrap();
    assert_eq!(
        server.take_writes(),
        [format!("PUT {CARGO}"), format!("POST {CARGOES}"), format!("DELETE {CARGO}"), format!("POST {CARGOES}")],
        "the first POST is a dry run"
    );
    assert_ne!(server.get(&cargo([])).unwrap().uid(), child.uid());

    // What is desired itself is refused: what there is stays.
    server.answer_next("PUT", 422, invalid("the schedule is no schedule"));
    server.answer_next("POST", 422, invalid("the schedule is no schedule"));
    let error = refused(&owned, &ship, cargo([("rum", "14")])).await;
    assert_eq!(error.to_string(), "the schedule is no schedule");
    assert_eq!(server.get(&cargo([])).unwrap().data, Some(map([("rum", "13")])));
}

#[tokio::test]
async fn a_child_that_is_undone_again_and_again_is_put_right_less_and_less_often() {
    let server = ApiServer::new();
    let (ship, owned) = (ship(&server, "a"), owned(&server, []));
    let mut refused = 0;
    for _ in 0..20 {
        if let Ok(child) = owned.apply(&ship, cargo([("rum", "12")])).await {
            server.remove(&*child);
            testing::gone(owned.cache(), (*child).clone());
        } else {
            refused += 1;
        }
    }
    assert_eq!((server.take_writes().len(), refused), (6, 14));
    let error = self::refused(&owned, &ship, cargo([("rum", "12")])).await;
    assert!(matches!(&error, Error::Waiting { reason, .. } if reason == "ChangedRepeatedly"), "{error:?}");
    assert!(error.to_string().contains("ConfigMap port/cargo"), "{error}");
    owned.apply(&ship, cargo([("rum", "13")])).await.expect("a change is no repair");
}

#[tokio::test]
async fn what_was_refused_is_looked_for_again_where_no_watch_tells_of_it() {
    let server = ApiServer::new();
    let (ship, owned) = (ship(&server, "a"), owned(&server, []));
    let nobodys = server.put(&cargo([]));
    refused(&owned, &ship, cargo([])).await;
    server.remove(&nobodys);
    owned.apply(&ship, cargo([])).await.unwrap();
}

const CARGO: &str = "/api/v1/namespaces/port/configmaps/cargo";
const CARGOES: &str = "/api/v1/namespaces/port/configmaps";

/// ConfigMaps that keep a ship within its bounds, found by a label that others can remove.
fn guarding(server: &ApiServer) -> Owned<ConfigMap> {
    owned(server, []).linked_by("example.com/ship").adopting_unowned()
}

#[tokio::test]
async fn what_guards_is_taken_over_unless_something_else_controls_it() {
    let server = ApiServer::new();
    let (ours, other) = (ship(&server, "a"), ship(&server, "b"));
    let nobodys = server.put(&cargo([("rum", "0")]));
    let guards = guarding(&server);
    for _ in 0..2 {
        let child = guards.apply(&ours, cargo([("rum", "12")])).await.unwrap();
        assert_eq!((child.labels()["example.com/ship"].as_str(), child.uid()), ("a", nobodys.uid()));
        assert_eq!(child.data, Some(map([("rum", "12")])));
    }
    assert_eq!(server.take_writes(), [format!("POST {CARGOES}"), format!("PUT {CARGO}")]);

    server.remove(&nobodys);
    let theirs = owned(&server, []).apply(&other, cargo([])).await.unwrap();
    let error = refused(&guarding(&server), &ours, cargo([("rum", "12")])).await;
    assert!(matches!(&error, Error::Structural { reason, .. } if reason == "NameConflict"), "{error:?}");
    assert_eq!(server.get(&cargo([])), Some((*theirs).clone()));
}

#[tokio::test]
async fn what_guards_is_kept_right_for_as_long_as_a_finalizer_keeps_it() {
    let server = ApiServer::new();
    let (ship, guards) = (ship(&server, "a"), guarding(&server));
    let mut going = cargo([("rum", "0")]);
    going.finalizers_mut().push("their/finalizer".into());
    going.metadata.deletion_timestamp = Some(Time("2026-01-01T00:00:00Z".parse().unwrap()));
    server.put(&going);
    for _ in 0..2 {
        let error = refused(&guards, &ship, cargo([("rum", "12")])).await;
        assert!(matches!(&error, Error::Waiting { reason, .. } if reason == "WaitingForDeletion"), "{error:?}");
    }
    assert_eq!(server.take_writes(), [format!("POST {CARGOES}"), format!("PUT {CARGO}")]);
    let live = server.get(&cargo([])).unwrap();
    assert_eq!(live.data, Some(map([("rum", "12")])));

    server.remove(&live);
    testing::gone(guards.cache(), live);
    guards.apply(&ship, cargo([("rum", "12")])).await.unwrap();
}

#[tokio::test]
async fn additions_that_must_not_stand_are_written_over_and_once_only_if_they_come_back() {
    let server = ApiServer::new();
    let ship = ship(&server, "a");
    let owned = owned(&server, []).overwritten_if(|live, desired| live.data != desired.data);
    owned.apply(&ship, cargo([("rum", "12")])).await.unwrap();
    let mut added = server.get(&cargo([])).unwrap();
    added.data.as_mut().unwrap().insert("added".into(), "by somebody".into());
    testing::changed(owned.cache(), server.put(&added));
    server.take_requests();
    owned.apply(&ship, cargo([("rum", "12")])).await.unwrap();
    assert_eq!(server.take_writes(), [format!("PUT {CARGO}")]);
    assert_eq!(server.get(&cargo([])).unwrap().data, Some(map([("rum", "12")])));

    // A webhook adds it to whatever is written.
    testing::changed(owned.cache(), server.put(&added));
    added.metadata.resource_version = Some("1000".into());
    server.answer_next("PUT", 200, serde_json::to_value(&added).unwrap());
    for _ in 0..3 {
        owned.apply(&ship, cargo([("rum", "12")])).await.unwrap();
    }
    assert_eq!(server.take_writes(), [format!("PUT {CARGO}")]);
}

#[tokio::test]
async fn what_cannot_be_changed_is_made_anew() {
    let server = ApiServer::new();
    let ship = ship(&server, "a");
    let owned = owned(&server, []).recreated_if(|live, desired| live.immutable != desired.immutable);
    let child = owned.apply(&ship, cargo([("rum", "12")])).await.unwrap();
    let sealed = server.put(&ConfigMap { immutable: Some(true), ..(*child).clone() });
    testing::changed(owned.cache(), sealed);
    server.take_requests();
    for _ in 0..2 {
        owned.apply(&ship, cargo([("rum", "12")])).await.unwrap();
    }
    assert_eq!(server.take_writes(), [format!("DELETE {CARGO}"), format!("POST {CARGOES}")]);
    assert_ne!(server.get(&cargo([])).unwrap().uid(), child.uid());
}

#[tokio::test]
async fn a_child_newer_than_the_cache_is_found_and_updated() {
    let server = ApiServer::new();
    let ship = ship(&server, "a");
    owned(&server, []).apply(&ship, cargo([("rum", "12")])).await.unwrap();
    server.take_requests();
    owned(&server, []).apply(&ship, cargo([("rum", "13")])).await.unwrap();
    let methods: Vec<_> = server.take_requests().into_iter().map(|request| request.method).collect();
    assert_eq!(methods, ["POST", "GET", "PUT"]);
}

#[tokio::test]
async fn a_child_that_is_being_deleted_is_waited_for() {
    let server = ApiServer::new();
    let ship = ship(&server, "a");
    let mut desired = cargo([]);
    desired.finalizers_mut().push("their/finalizer".into());
    let owned = owned(&server, []);
    let child = owned.apply(&ship, desired.clone()).await.unwrap();
    owned.delete(&child).await.unwrap();
    server.take_requests();
    let error = refused(&owned, &ship, desired).await;
    assert!(matches!(&error, Error::Waiting { reason, .. } if reason == "WaitingForDeletion"), "{error:?}");
    assert_eq!(error.to_string(), "ConfigMap port/cargo is being deleted: the finalizer their/finalizer blocks it");
    assert!(server.take_requests().is_empty());
}

#[tokio::test]
async fn somebody_elses_write_in_between_is_a_conflict() {
    let server = ApiServer::new();
    let ship = ship(&server, "a");
    owned(&server, []).apply(&ship, cargo([("rum", "12")])).await.unwrap();
    let seen = server.get(&cargo([])).unwrap();
    let mut changed = seen.clone();
    changed.labels_mut().insert("theirs".into(), "1".into());
    server.put(&changed);
    let error = refused(&owned(&server, [seen]), &ship, cargo([("rum", "13")])).await;
    assert_eq!(error.class(), Class::Conflict);
}

#[tokio::test]
async fn a_missing_namespace_is_waited_for() {
    let server = ApiServer::new();
    let ship = ship(&server, "a");
    let details = json!({"kind": "namespaces", "name": "port"});
    let answer = json!({"kind": "Status", "status": "Failure", "code": 404, "reason": "NotFound", "details": details});
    server.answer_next("POST", 404, answer);
    let error = refused(&owned(&server, []), &ship, cargo([])).await;
    assert_eq!(error.class(), Class::Waiting);
    assert_eq!(error.to_string(), "namespace port does not exist");
}

#[tokio::test]
async fn what_cannot_be_changed_comes_out_as_the_server_said_it() {
    let server = ApiServer::new();
    let ship = ship(&server, "a");
    let owned = owned(&server, []);
    owned.apply(&ship, cargo([("rum", "12")])).await.unwrap();
    let details = json!({"kind": "ConfigMap", "causes": [{"reason": "FieldValueInvalid", "field": "data"}]});
    let answer = json!({"kind": "Status", "status": "Failure", "code": 422, "reason": "Invalid", "message": "field is immutable", "details": details});
    server.answer_next("PUT", 422, answer);
    let error = refused(&owned, &ship, cargo([("rum", "13")])).await;
    assert!(matches!(&error, Error::Kube(kube::Error::Api(status)) if status.is_invalid()));
    assert_eq!((error.class(), error.to_string()), (Class::Structural, "field is immutable".to_owned()));
}

#[tokio::test]
async fn pruning_takes_only_our_own_and_only_what_is_not_wanted() {
    let server = ApiServer::new();
    let (ours, other) = (ship(&server, "a"), ship(&server, "b"));
    let owned = owned(&server, []);
    for name in ["keep", "drop"] {
        owned.apply(&ours, named(ConfigMap::default(), "port", name)).await.unwrap();
    }
    let mut lingering = named(ConfigMap::default(), "port", "lingering");
    lingering.finalizers_mut().push("their/finalizer".into());
    let lingering = owned.apply(&ours, lingering).await.unwrap();
    owned.delete(&lingering).await.unwrap();
    owned.apply(&other, named(ConfigMap::default(), "port", "others")).await.unwrap();
    server.take_requests();

    for expected in [1, 0] {
        assert_eq!(owned.prune(&ours, |child| child.name_any() == "keep").await.unwrap(), expected);
    }
    let requests = server.take_requests();
    assert_eq!(requests.len(), 1);
    assert_eq!(requests[0].path, "/api/v1/namespaces/port/configmaps/drop");
    assert!(requests[0].body["preconditions"]["uid"].is_string());
    assert_eq!(requests[0].body["propagationPolicy"], "Background");
    assert_eq!(owned.children(&ours).len(), 2, "what is still going is still there");
}

#[tokio::test]
async fn nothing_is_pruned_from_an_incomplete_list() {
    let server = ApiServer::new();
    let ship = ship(&server, "a");
    let cache: Cache<ConfigMap> = Cache::new(Box::new(|_| ()), false);
    let owned = Owned::new(&server.platform(), &cache);
    let error = owned.prune(&ship, |_| false).await.unwrap_err();
    assert_eq!(error.class(), Class::Waiting);
}

#[tokio::test]
async fn deleting_what_is_gone_or_was_created_again_harms_nobody() {
    let server = ApiServer::new();
    let ship = ship(&server, "a");
    let owned = owned(&server, []);
    let child = owned.apply(&ship, cargo([])).await.unwrap();
    server.remove(&*child);
    owned.delete(&child).await.unwrap();
    let again = server.put(&cargo([]));
    assert_eq!(owned.delete(&child).await.unwrap_err().class(), Class::Conflict);
    assert_eq!(server.get(&again), Some(again));
}

#[tokio::test]
async fn a_label_links_what_must_outlive_its_owner() {
    let server = ApiServer::new();
    let ship = ship(&server, "a");
    let mut foreign = Namespace::default();
    foreign.metadata.name = Some("foreign".to_owned());
    let foreign = server.put(&foreign);
    let owned = Owned::new(&server.platform(), &testing::cache([foreign.clone()])).linked_by("example.com/ship");
    let mut desired = Namespace::default();
    desired.metadata.name = Some("port".to_owned());
    let child = owned.apply(&ship, desired).await.unwrap();
    assert!(child.owner_references().is_empty());
    assert_eq!(child.labels()["example.com/ship"], "a");
    assert_eq!(owned.children(&ship).len(), 1);
    assert!(matches!(owned.apply(&ship, foreign).await, Err(Error::Structural { .. })));
    assert_eq!(owned.prune(&ship, |_| false).await.unwrap(), 1);
    assert_eq!(owned.cache().all().len(), 1);
}

#[tokio::test]
async fn an_owner_in_a_namespace_has_no_children_elsewhere() {
    let server = ApiServer::new();
    let owner = server.put(&named(ConfigMap::default(), "port", "owner"));
    let owned = owned(&server, []);
    let child = owned
        .apply(
            &owner,
            ConfigMap {
                metadata: kube::core::ObjectMeta { name: Some("x".into()), ..Default::default() },
                ..Default::default()
            },
        )
        .await
        .unwrap();
    assert_eq!(child.namespace().as_deref(), Some("port"), "the owner's namespace if none is said");
    let error = owned.apply(&owner, named(ConfigMap::default(), "elsewhere", "x")).await.unwrap_err();
    assert_eq!(error.class(), Class::Structural);
}

#[tokio::test]
async fn a_child_is_found_by_its_name_if_it_is_the_owners() {
    let server = ApiServer::new();
    let owner = server.put(&named(ConfigMap::default(), "port", "owner"));
    let other = server.put(&named(ConfigMap::default(), "port", "other"));
    let owned = owned(&server, []);
    owned.apply(&owner, cargo([("rum", "12")])).await.unwrap();
    assert_eq!(owned.child(&owner, "cargo").map(|child| child.name_any()), Some("cargo".into()));
    assert!(owned.child(&other, "cargo").is_none(), "it has another owner");
    assert!(owned.child(&owner, "ballast").is_none());
}
