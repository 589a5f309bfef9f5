//! Objects that others have written, to read which must neither fail nor cost much.

use std::time::Duration;

use ahoi_api::Object;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::WatchEvent;
use kube::runtime::watcher::{self, Event};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

use super::{Ship, map, named, ship};
use crate::cache::{Cache, Item};
use crate::conditions::is_ready;
use crate::owned::Owned;
use crate::platform::Platform;
use crate::testing::{self, ApiServer};
use crate::{Controller, Error, Progress, Reconciler};

/// A time that Go reads and our types do not.
const LAST: &str = "9999-12-31T23:59:59Z";

fn managed() -> Value {
    json!([{"manager": "x", "operation": "Update", "apiVersion": "v1", "time": LAST, "fieldsType": "FieldsV1",
        "fieldsV1": {"f:data": {"f:k": {}}}}])
}

/// A ship whose spec a newer release has written.
fn newer(name: &str) -> Value {
    json!({"apiVersion": "example.com/v1", "kind": "Ship", "metadata": {"name": name}, "spec": {"sails": "hunter2"}})
}

fn ships(server: &ApiServer, platform: &Platform) -> Cache<Ship> {
    server.put_value("/apis/example.com/v1/ships/newer", newer("newer"));
    let cache = platform.cache(Api::<Ship>::all(platform.client.clone()), watcher::Config::default());
    platform.begin();
    cache
}

async fn synced(platform: &Platform) {
    tokio::time::timeout(Duration::from_secs(60), platform.synced()).await.expect("every list is complete");
}

fn events(server: &ApiServer) -> Vec<Value> {
    let requests = server.take_requests().into_iter();
    requests.filter(|request| request.path.ends_with("/events")).map(|request| request.body).collect()
}

#[tokio::test(start_paused = true)]
async fn an_object_that_cannot_be_decoded_does_not_affect_others_and_is_reported_once() {
    let server = ApiServer::new();
    ship(&server, "good");
    let platform = server.platform();
    let cache = ships(&server, &platform);
    synced(&platform).await;
    assert_eq!(cache.all().iter().map(|ship| ship.name_any()).collect::<Vec<_>>(), ["good"]);
    assert_eq!(cache.find("", "newer").unwrap_err().reason(), "Unreadable", "it exists");
    assert!(cache.find("", "none").unwrap().is_none());

    tokio::time::sleep(Duration::from_secs(1)).await;
    // As after a watch that was lost.
    let head = json!({"metadata": {"name": "newer", "uid": "uid-2", "resourceVersion": "2"}, "spec": {"sails": "x"}});
    for event in [Event::Init, Event::InitApply(item(head)), Event::InitDone] {
        assert!(cache.receive(event).is_none(), "it is known");
    }
    let events = events(&server);
    assert_eq!(events.len(), 1, "{events:?}");
    let note = events[0]["note"].as_str().unwrap();
    assert!(note.contains("spec.sails: invalid type: string \"…\", expected i32"), "{note}");
    assert_eq!(events[0]["regarding"]["name"], "newer");
    let metrics = platform.encode_metrics().unwrap();
    assert!(metrics.contains("ahoi_unreadable_objects{kind=\"Ship\"} 1"), "{metrics}");
    assert!(metrics.contains("ahoi_first_list_overdue{kind=\"Ship\"} 0"), "{metrics}");
    assert!(!note.contains("hunter2") && !metrics.contains("hunter2"));
}

fn item<K: Object>(value: Value) -> Item<K> {
    Item::of(&value.to_string())
}

#[test]
fn a_watch_does_not_decode_objects() {
    let line = format!("{{\"type\":\"ADDED\",\"object\":{}}}", newer("newer"));
    let event: WatchEvent<crate::cache::Raw<Ship>> = serde_json::from_str(&line).unwrap();
    let WatchEvent::Added(raw) = event else { panic!("{event:?}") };
    assert_eq!(raw.head().name.as_deref(), Some("newer"));
    assert!(!format!("{raw:?}").contains("hunter2"));
}

#[test]
fn an_object_that_becomes_unreadable_exists_and_is_not_reconciled_until_it_is_readable() {
    let at = |version: u64, sails: Value| -> Item<Ship> {
        item(json!({"apiVersion": "example.com/v1", "kind": "Ship", "spec": {"sails": sails},
            "metadata": {"name": "a", "uid": "u", "resourceVersion": version.to_string()}}))
    };
    let cache: Cache<Ship> = testing::cache([]);
    let changes = std::sync::Arc::new(parking_lot::Mutex::new(Vec::new()));
    let seen = changes.clone();
    cache.listen(move |change| seen.lock().push((change.object.spec.sails, change.gone)));
    let seen = || std::mem::take(&mut *changes.lock());

    cache.receive(Event::Apply(at(1, json!(3))));
    assert_eq!(seen(), [(3, false)]);
    assert!(cache.receive(Event::Apply(at(2, json!("many")))).is_some());
    assert!(cache.receive(Event::Apply(at(3, json!("more")))).is_none(), "reported once");
    assert!(cache.is_unreadable("", "a") && seen().is_empty());
    assert_eq!(cache.find("", "a").unwrap().unwrap().spec.sails, 3, "its last readable version");
    for event in [Event::Init, Event::InitApply(at(3, json!("more"))), Event::InitDone] {
        cache.receive(event);
    }
    assert!(seen().is_empty() && cache.get("a").is_some(), "nor after another list");
    cache.receive(Event::Apply(at(4, json!(4))));
    assert!(!cache.is_unreadable("", "a"));
    assert_eq!(seen(), [(4, false)]);

    cache.receive(Event::Apply(at(5, json!("many"))));
    cache.receive(Event::Delete(at(6, json!("many"))));
    assert_eq!(seen(), [(4, true)], "its deletion is reported");
    assert!(cache.find("", "a").unwrap().is_none());
}

struct Sailor;

impl Reconciler for Sailor {
    type Kind = Ship;
    const NAME: &'static str = "sailor";

    async fn reconcile(&self, ship: &Ship) -> Result<Progress<super::ShipStatus>, Error> {
        let mut status = ship.status.clone().unwrap_or_default();
        let verdict = crate::Verdict::ready("sails");
        crate::conditions::set_verdict(&mut status.conditions, ship.metadata.generation, verdict);
        Ok(Progress::new(status))
    }
}

#[tokio::test(start_paused = true)]
async fn a_controller_reconciles_others_and_does_not_change_an_unreadable_object() {
    let server = ApiServer::new();
    let good = ship(&server, "good");
    let platform = server.platform();
    let cache = ships(&server, &platform);
    tokio::spawn(Controller::new(&platform, &cache).run(Sailor).future);
    tokio::time::sleep(Duration::from_secs(4000)).await;
    assert!(is_ready(&server.get(&good).unwrap()));
    let of_newer = |write: &String| write.contains("newer");
    assert!(!server.take_writes().iter().any(of_newer), "it is not written to");
}

#[tokio::test]
async fn an_answer_with_invalid_managed_fields_is_decoded() {
    let server = ApiServer::new();
    let (ship, owned) = (ship(&server, "a"), Owned::new(&server.platform(), &testing::cache([])));
    let cargo =
        |tons: &str| named(ConfigMap { data: Some(map([("rum", tons)])), ..ConfigMap::default() }, "port", "cargo");
    owned.apply(&ship, cargo("1")).await.unwrap();
    let path = "/api/v1/namespaces/port/configmaps/cargo";
    let mut value = serde_json::to_value(server.get(&cargo("1")).unwrap()).unwrap();
    value["metadata"]["managedFields"] = managed();
    server.put_value(path, value.clone());
    server.answer_next("PUT", 200, value.clone());
    // What the watch has brought.
    testing::changed(owned.cache(), server.get(&cargo("1")).unwrap());
    owned.apply(&ship, cargo("2")).await.unwrap();
    owned.delete(&server.get(&cargo("1")).unwrap()).await.unwrap();
}

/// Secrets of ships are called after them.
fn secrets(platform: &Platform, ships: &Cache<Ship>) -> Cache<Secret> {
    platform.cache_secrets(watcher::Config::default(), ships, "-login", |_| ())
}

fn login(name: &str, bytes: usize) -> Secret {
    let data = [("password".to_owned(), ByteString(vec![b'x'; bytes]))];
    let mut secret = Secret { data: Some(data.into()), ..Secret::default() };
    secret.metadata.name = Some(name.to_owned());
    secret
}

fn single_reads(server: &ApiServer) -> Vec<String> {
    let reads = server.take_requests().into_iter().filter(|request| request.method == "GET");
    let single = |path: &str| path.contains("/secrets/");
    reads.map(|request| request.path).filter(|path| single(path)).collect()
}

#[tokio::test(start_paused = true)]
async fn only_secrets_of_existing_objects_are_read_and_each_version_once() {
    let server = ApiServer::new();
    for number in 0..300 {
        server.put(&login(&format!("p{number}"), 1000));
        server.put(&login(&format!("p{number}-login"), 1000));
    }
    server.put(&login("good-login", 7));
    let platform = server.platform();
    let ships = testing::cache([ship(&server, "good")]);
    let secrets = secrets(&platform, &ships);
    platform.begin();
    synced(&platform).await;
    let reads = single_reads(&server);
    assert_eq!(reads, ["/api/v1/secrets/good-login"]);
    assert_eq!(secrets.all().len(), 1);
    assert_eq!(secrets.get("good-login").unwrap().data.as_ref().unwrap()["password"].0.len(), 7);

    // One whose Secret was there before it.
    testing::changed(&ships, ship(&server, "p7"));
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(single_reads(&server), ["/api/v1/secrets/p7-login"]);
    assert!(secrets.get("p7-login").is_some());
    testing::changed(&ships, ship(&server, "p7"));
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(single_reads(&server).is_empty(), "it is known");
}

#[tokio::test(start_paused = true)]
async fn a_missing_first_list_is_reported_with_its_kind_and_ends_the_process() {
    let server = ApiServer::new();
    let refused =
        json!({"kind": "Status", "status": "Failure", "code": 403, "reason": "Forbidden", "message": "no ships"});
    for _ in 0..1000 {
        server.answer_next("GET", 403, refused.clone());
    }
    let platform = server.platform();
    let _cache = ships(&server, &platform);
    let ended = tokio::spawn({
        let platform = platform.clone();
        async move { crate::run::first_lists(&platform, Duration::from_secs(120)).await.to_string() }
    });
    tokio::time::sleep(Duration::from_secs(110)).await;
    assert!(!ended.is_finished());
    let (_, text) = crate::http::readiness(&platform, &crate::http::Stages::leading());
    assert!(text.starts_with("waiting for the list of Ship (no ships)"), "{text}");
    let error = ended.await.unwrap();
    assert_eq!(error, "no complete list of Ship (no ships) after 120 s; another replica may take over");
}
