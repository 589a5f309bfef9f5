//! Children that another client changed.

use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use serde_json::json;

use super::{CARGO, CARGOES, cargo, guarding, owned, refused};
use crate::error::Error;
use crate::testing::{self, ApiServer};
use crate::tests::{map, ship};

#[tokio::test]
async fn drift_is_repaired_and_additions_of_others_stay() {
    let server = ApiServer::new();
    let ship = ship(&server, "a");
    owned(&server, []).apply(&ship, cargo([("rum", "12")])).await.unwrap();
    let mut live = server.get(&cargo([])).unwrap();
    live.data.as_mut().unwrap().insert("added".into(), "by another client".into());
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

fn invalid(message: &str) -> serde_json::Value {
    let details = json!({"kind": "ConfigMap", "causes": [{"reason": "FieldValueInvalid", "field": "data"}]});
    json!({"kind": "Status", "status": "Failure", "code": 422, "reason": "Invalid", "message": message, "details": details})
}

#[tokio::test]
async fn a_child_whose_repair_is_refused_is_recreated_if_the_new_one_is_valid() {
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
async fn repairs_of_a_child_that_another_client_changes_are_delayed() {
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
async fn a_guard_is_repaired_while_a_finalizer_blocks_its_deletion() {
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
async fn forbidden_additions_are_overwritten_and_only_once_if_they_return() {
    let server = ApiServer::new();
    let ship = ship(&server, "a");
    let owned = owned(&server, []).overwritten_if(|live, desired| live.data != desired.data);
    owned.apply(&ship, cargo([("rum", "12")])).await.unwrap();
    let mut added = server.get(&cargo([])).unwrap();
    added.data.as_mut().unwrap().insert("added".into(), "by another client".into());
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
async fn a_child_with_an_immutable_change_is_recreated() {
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
