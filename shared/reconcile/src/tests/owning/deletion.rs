//! Deleting children.

use k8s_openapi::api::core::v1::ConfigMap;
use kube::ResourceExt;

use super::{cargo, owned, refused};
use crate::cache::Cache;
use crate::error::{Class, Error};
use crate::owned::Owned;
use crate::testing::ApiServer;
use crate::tests::{named, ship};

#[tokio::test]
async fn apply_waits_for_a_child_that_is_being_deleted() {
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
async fn prune_deletes_only_own_children_that_are_not_kept() {
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
async fn prune_waits_for_a_complete_list() {
    let server = ApiServer::new();
    let ship = ship(&server, "a");
    let cache: Cache<ConfigMap> = Cache::new(Box::new(|_| ()), false);
    let owned = Owned::new(&server.platform(), &cache);
    let error = owned.prune(&ship, |_| false).await.unwrap_err();
    assert_eq!(error.class(), Class::Waiting);
}

#[tokio::test]
async fn deleting_an_object_that_was_deleted_or_recreated_does_nothing() {
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
