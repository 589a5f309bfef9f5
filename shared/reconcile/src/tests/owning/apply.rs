//! Creating and changing children.

use kube::ResourceExt;
use serde_json::json;

use super::{cargo, owned, refused};
use crate::error::{Class, Error};
use crate::testing::ApiServer;
use crate::tests::{map, ship};

#[tokio::test]
async fn a_child_is_created_by_post_and_cached_without_the_watch() {
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
async fn nothing_is_written_after_a_restart() {
    let server = ApiServer::new();
    let ship = ship(&server, "a");
    owned(&server, []).apply(&ship, cargo([("rum", "12")])).await.unwrap();
    let live = server.get(&cargo([])).unwrap();
    server.take_writes();
    owned(&server, [live]).apply(&ship, cargo([("rum", "12")])).await.unwrap();
    assert!(server.take_writes().is_empty());
}

#[tokio::test]
async fn a_change_is_a_put_that_removes_undesired_fields_and_keeps_those_of_others() {
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
async fn fields_that_are_no_longer_desired_are_removed() {
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
async fn a_concurrent_write_is_a_conflict() {
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
async fn the_message_of_a_refused_change_is_the_api_servers() {
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
