//! Whose child an object is.

use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::ResourceExt;

use super::{CARGO, CARGOES, cargo, guarding, owned, refused};
use crate::error::{Class, Error};
use crate::owned::Owned;
use crate::testing::{self, ApiServer};
use crate::tests::{map, named, ship};

#[tokio::test]
async fn an_object_of_another_owner_or_of_none_is_a_name_conflict() {
    let server = ApiServer::new();
    let (ours, other) = (ship(&server, "a"), ship(&server, "b"));
    let unowned = server.put(&cargo([]));
    let error = refused(&owned(&server, [unowned]), &ours, cargo([("rum", "12")])).await;
    assert!(matches!(&error, Error::Structural { reason, .. } if reason == "NameConflict"));
    assert_eq!(
        error.to_string(),
        "ConfigMap port/cargo exists, does not belong to Ship a and is not changed. Delete it to let Ship a create \
         its own"
    );

    // The same if the cache does not have it: the create is refused, and a read shows its owner.
    server.remove(&cargo([]));
    owned(&server, []).apply(&other, cargo([])).await.unwrap();
    server.take_requests();
    let error = refused(&owned(&server, []), &ours, cargo([])).await;
    assert_eq!(error.class(), Class::Structural);
    let methods: Vec<_> = server.take_requests().into_iter().map(|request| request.method).collect();
    assert_eq!(methods, ["POST", "GET"]);
}

/// Another client removed or replaced the owner reference, or a backup was restored without it.
#[tokio::test]
async fn a_child_without_its_owner_reference_is_linked_again() {
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
async fn an_orphan_is_found_by_its_name_and_labels() {
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
    assert_eq!(found(&unlabelled, &desired), None, "its labels do not name this owner");
    let mut squatted = lost.clone();
    squatted.metadata.annotations = None;
    assert_eq!(found(&squatted, &desired), None, "no controller of ours has written it");
    assert_eq!(found(&lost, &named(desired.clone(), "port", "ballast")), None);
}

#[tokio::test]
async fn a_name_conflict_outside_of_the_cache_is_checked_again() {
    let server = ApiServer::new();
    let (ship, owned) = (ship(&server, "a"), owned(&server, []));
    let unowned = server.put(&cargo([]));
    refused(&owned, &ship, cargo([])).await;
    server.remove(&unowned);
    owned.apply(&ship, cargo([])).await.unwrap();
}

#[tokio::test]
async fn a_guard_is_adopted_unless_another_object_controls_it() {
    let server = ApiServer::new();
    let (ours, other) = (ship(&server, "a"), ship(&server, "b"));
    let unowned = server.put(&cargo([("rum", "0")]));
    let guards = guarding(&server);
    for _ in 0..2 {
        let child = guards.apply(&ours, cargo([("rum", "12")])).await.unwrap();
        assert_eq!((child.labels()["example.com/ship"].as_str(), child.uid()), ("a", unowned.uid()));
        assert_eq!(child.data, Some(map([("rum", "12")])));
    }
    assert_eq!(server.take_writes(), [format!("POST {CARGOES}"), format!("PUT {CARGO}")]);

    server.remove(&unowned);
    let theirs = owned(&server, []).apply(&other, cargo([])).await.unwrap();
    let error = refused(&guarding(&server), &ours, cargo([("rum", "12")])).await;
    assert!(matches!(&error, Error::Structural { reason, .. } if reason == "NameConflict"), "{error:?}");
    assert_eq!(server.get(&cargo([])), Some((*theirs).clone()));
}

#[tokio::test]
async fn a_label_links_a_child_that_survives_its_owner() {
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
async fn a_child_in_another_namespace_is_refused() {
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
    assert_eq!(child.namespace().as_deref(), Some("port"), "the owner's namespace by default");
    let error = owned.apply(&owner, named(ConfigMap::default(), "elsewhere", "x")).await.unwrap_err();
    assert_eq!(error.class(), Class::Structural);
}

#[tokio::test]
async fn a_child_is_found_by_name_only_for_its_owner() {
    let server = ApiServer::new();
    let owner = server.put(&named(ConfigMap::default(), "port", "owner"));
    let other = server.put(&named(ConfigMap::default(), "port", "other"));
    let owned = owned(&server, []);
    owned.apply(&owner, cargo([("rum", "12")])).await.unwrap();
    assert_eq!(owned.child(&owner, "cargo").map(|child| child.name_any()), Some("cargo".into()));
    assert!(owned.child(&other, "cargo").is_none(), "it has another owner");
    assert!(owned.child(&owner, "ballast").is_none());
}
