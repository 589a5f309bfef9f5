use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::ResourceExt;
use kube::runtime::watcher::Event;
use parking_lot::Mutex;

use super::{Ship, ShipStatus, map, named, ship};
use crate::cache::Cache;
use crate::conditions::{Verdict, set_verdict};
use crate::controller::Controller;
use crate::error::Error;
use crate::owned::Owned;
use crate::platform::Platform;
use crate::reconciler::{PlainReconciler, Progress, Reconciler};
use crate::testing::{self, ApiServer};
use crate::{ObjectRef, is_ready};

/// Gives each ship a ConfigMap; slow enough for reconciles to overlap if they could.
#[derive(Clone)]
struct Shipyard {
    children: Owned<ConfigMap>,
    reconciled: Arc<Mutex<Vec<String>>>,
    at_once: Arc<AtomicUsize>,
    most_at_once: Arc<AtomicUsize>,
    mishap: Arc<Mutex<Option<&'static str>>>,
}

impl Reconciler for Shipyard {
    type Kind = Ship;
    const NAME: &'static str = "shipyard";

    async fn reconcile(&self, ship: &Ship) -> Result<Progress<ShipStatus>, Error> {
        self.reconciled.lock().push(ship.name_any());
        let mishap = self.mishap.lock().take();
        match mishap {
            Some("panic") => panic!("the mast has broken"),
            Some(_) => std::future::pending().await,
            None => {}
        }
        self.most_at_once.fetch_max(self.at_once.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(100)).await;
        self.at_once.fetch_sub(1, Ordering::SeqCst);
        let child = ConfigMap { data: Some(map([("sails", &ship.spec.sails.to_string())])), ..ConfigMap::default() };
        self.children.apply(ship, named(child, "port", &ship.name_any())).await?;
        let mut status = ship.status.clone().unwrap_or_default();
        set_verdict(&mut status.conditions, ship.metadata.generation, Verdict::ready("built"));
        Ok(Progress::new(status))
    }
}

struct Harbour {
    server: ApiServer,
    platform: Platform,
    ships: Cache<Ship>,
    children: Cache<ConfigMap>,
    yard: Shipyard,
}

impl Harbour {
    fn new(names: &[&str]) -> Self {
        let server = ApiServer::new();
        let platform = server.platform();
        let ships = testing::cache(names.iter().map(|name| ship(&server, name)));
        let children = testing::cache([]);
        let yard = Shipyard {
            children: Owned::new(&platform, &children),
            reconciled: Arc::default(),
            at_once: Arc::default(),
            most_at_once: Arc::default(),
            mishap: Arc::default(),
        };
        Harbour { server, platform, ships, children, yard }
    }

    fn controller(&self) -> Controller<Ship> {
        Controller::new(&self.platform, &self.ships).owns(&self.yard.children)
    }

    /// Runs in the background from now on.
    fn run(&self, controller: Controller<Ship>) {
        tokio::spawn(controller.run(self.yard.clone()).future);
    }

    /// The names of the reconciled objects since the last call.
    async fn reconciled(&self) -> Vec<String> {
        tokio::time::sleep(Duration::from_secs(5)).await;
        let mut names = std::mem::take(&mut *self.yard.reconciled.lock());
        names.sort();
        names
    }

    /// The watches bring what is on the server now, in the order it came about.
    fn deliver(&self, names: &[&str]) {
        let mut children: Vec<_> = names.iter().map(|name| self.child(name)).collect();
        let mut ships: Vec<_> =
            names.iter().map(|name| self.server.get(&Ship::new(name, Default::default())).unwrap()).collect();
        children.sort_by_key(|child| child.resource_version().unwrap().parse::<u64>().unwrap());
        ships.sort_by_key(|ship| ship.resource_version().unwrap().parse::<u64>().unwrap());
        children.into_iter().for_each(|child| self.children.observe(Event::Apply(child)));
        ships.into_iter().for_each(|ship| self.ships.observe(Event::Apply(ship)));
    }

    fn child(&self, name: &str) -> ConfigMap {
        self.server.get(&named(ConfigMap::default(), "port", name)).unwrap()
    }
}

#[tokio::test(start_paused = true)]
async fn each_object_is_reconciled_once_at_the_start() {
    let harbour = Harbour::new(&["a", "b", "c"]);
    harbour.run(harbour.controller());
    assert_eq!(harbour.reconciled().await, ["a", "b", "c"]);
    assert!(is_ready(&harbour.server.get(&*harbour.ships.get("a").unwrap()).unwrap()));

    // The watch brings back what we wrote: no reason to look again.
    harbour.deliver(&["a", "b", "c"]);
    assert!(harbour.reconciled().await.is_empty());

    tokio::time::sleep(Duration::from_secs(3700)).await;
    assert_eq!(harbour.reconciled().await, ["a", "b", "c"], "every object is reconciled within the hour");
}

#[tokio::test(start_paused = true)]
async fn a_deleted_child_triggers_its_owner() {
    let harbour = Harbour::new(&["a"]);
    harbour.run(harbour.controller());
    harbour.reconciled().await;
    harbour.deliver(&["a"]);
    assert!(harbour.reconciled().await.is_empty());
    let child = harbour.child("a");
    harbour.yard.children.delete(&child).await.unwrap();
    harbour.children.observe(Event::Delete(child));
    assert_eq!(harbour.reconciled().await, ["a"]);
}

#[tokio::test(start_paused = true)]
async fn changes_of_a_child_by_other_clients_trigger_its_owner_once() {
    let harbour = Harbour::new(&["a", "b"]);
    harbour.run(harbour.controller());
    harbour.reconciled().await;
    harbour.deliver(&["a", "b"]);
    harbour.server.take_writes();

    for count in 0..30 {
        let mut child = harbour.child("a");
        child.data = Some(map([("sails", &count.to_string())]));
        harbour.children.observe(Event::Apply(harbour.server.put(&child)));
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(harbour.reconciled().await, ["a"]);
    assert_eq!(harbour.child("a").data, Some(map([("sails", "3")])), "the drift is repaired");

    let child = harbour.child("b");
    harbour.server.remove(&child);
    harbour.children.observe(Event::Delete(child));
    assert_eq!(harbour.reconciled().await, ["b"]);
    assert_eq!(harbour.child("b").data, Some(map([("sails", "3")])));
}

#[tokio::test(start_paused = true)]
async fn an_object_that_changes_all_the_time_is_reconciled() {
    let harbour = Harbour::new(&["a"]);
    harbour.run(harbour.controller());
    harbour.reconciled().await;
    for count in 0..100 {
        let mut child = harbour.child("a");
        child.data = Some(map([("sails", &count.to_string())]));
        harbour.children.observe(Event::Apply(harbour.server.put(&child)));
        tokio::time::sleep(Duration::from_millis(40)).await;
    }
    let reconciled = std::mem::take(&mut *harbour.yard.reconciled.lock()).len();
    assert!((10..=40).contains(&reconciled), "{reconciled} reconciles in four seconds of a change each 40 ms");
}

#[tokio::test(start_paused = true)]
async fn a_cluster_scoped_owner_of_namespaced_children_is_not_reconciled_twice_at_once() {
    let harbour = Harbour::new(&["a"]);
    harbour.run(harbour.controller());
    harbour.reconciled().await;
    for count in 0..50 {
        let mut child = harbour.child("a");
        child.data = Some(map([("sails", &count.to_string())]));
        harbour.children.observe(Event::Apply(harbour.server.put(&child)));
        let mut ship = (*harbour.ships.get("a").unwrap()).clone();
        ship.labels_mut().insert("count".into(), count.to_string());
        harbour.ships.observe(Event::Apply(harbour.server.put(&ship)));
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    assert!(harbour.reconciled().await.len() > 5);
    assert_eq!(harbour.yard.most_at_once.load(Ordering::SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn concurrency_is_limited() {
    let names: Vec<String> = (0..30).map(|number| format!("ship-{number}")).collect();
    let harbour = Harbour::new(&names.iter().map(String::as_str).collect::<Vec<_>>());
    harbour.run(harbour.controller().concurrency(4));
    assert_eq!(harbour.reconciled().await.len(), 30);
    assert_eq!(harbour.yard.most_at_once.load(Ordering::SeqCst), 4);
}

#[tokio::test(start_paused = true)]
async fn no_object_starves_when_more_objects_change_than_there_are_slots() {
    let names: Vec<String> = (0..12).map(|number| format!("ship-{number}")).collect();
    let harbour = Harbour::new(&names.iter().map(String::as_str).collect::<Vec<_>>());
    harbour.run(harbour.controller().concurrency(4));
    harbour.reconciled().await;
    for count in 0..500 {
        for name in &names {
            let mut child = harbour.child(name);
            child.data = Some(map([("sails", &count.to_string())]));
            harbour.children.observe(Event::Apply(harbour.server.put(&child)));
        }
        tokio::time::sleep(Duration::from_millis(40)).await;
    }
    let reconciled = std::mem::take(&mut *harbour.yard.reconciled.lock());
    let shares: Vec<usize> =
        names.iter().map(|name| reconciled.iter().filter(|other| *other == name).count()).collect();
    let (least, most) = (shares.iter().min().unwrap(), shares.iter().max().unwrap());
    assert!(most - least <= 2, "reconciles of each: {shares:?}");
}

#[tokio::test(start_paused = true)]
async fn a_changed_object_overtakes_the_first_reconcile_of_all() {
    let names: Vec<String> = (0..100).map(|number| format!("ship-{number}")).collect();
    let harbour = Harbour::new(&names.iter().map(String::as_str).collect::<Vec<_>>());
    harbour.run(harbour.controller().concurrency(1));
    tokio::time::sleep(Duration::from_secs(1)).await;
    let before = harbour.yard.reconciled.lock().clone();
    let changed = names.iter().find(|name| !before.contains(name)).unwrap();
    let mut ship = (*harbour.ships.get(changed).unwrap()).clone();
    ship.labels_mut().insert("flag".into(), "red".into());
    harbour.ships.observe(Event::Apply(harbour.server.put(&ship)));
    tokio::time::sleep(Duration::from_millis(300)).await;
    let since = harbour.yard.reconciled.lock()[before.len()..].to_vec();
    assert!(since.contains(changed), "not among the next {}: {since:?}", since.len());
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert_eq!(harbour.yard.reconciled.lock().len(), 100, "each once");
}

#[tokio::test(start_paused = true)]
async fn a_watched_object_triggers_those_that_refer_to_it() {
    let harbour = Harbour::new(&["a", "b"]);
    let tides: Cache<ConfigMap> = testing::cache([]);
    harbour.run(harbour.controller().watches(&tides, |tide| [ObjectRef::new(&tide.name_any())]));
    harbour.reconciled().await;
    tides.observe(Event::Apply(harbour.server.put(&named(ConfigMap::default(), "sea", "b"))));
    assert_eq!(harbour.reconciled().await, ["b"]);
    tides.observe(Event::Apply(harbour.server.put(&named(ConfigMap::default(), "sea", "unknown"))));
    assert!(harbour.reconciled().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_panic_or_a_hang_fails_one_reconcile_and_is_retried() {
    for mishap in ["panic", "hang"] {
        let harbour = Harbour::new(&["a"]);
        *harbour.yard.mishap.lock() = Some(mishap);
        harbour.run(harbour.controller().timeout(Duration::from_secs(1)));
        assert_eq!(harbour.reconciled().await, ["a", "a"], "{mishap}");
        assert!(is_ready(&harbour.server.get(&*harbour.ships.get("a").unwrap()).unwrap()));
        let metrics = harbour.platform.metrics().encode().unwrap();
        assert!(
            metrics.contains(r#"ahoi_reconcile_errors_total{controller="shipyard",class="transient"} 1"#),
            "{metrics}"
        );
        assert!(metrics.contains(r#"ahoi_reconciles_total{controller="shipyard",outcome="done"} 1"#));
    }
}

#[tokio::test(start_paused = true)]
async fn no_reconcile_starts_before_every_cache_is_complete() {
    let harbour = Harbour::new(&["a"]);
    let late: Cache<ConfigMap> = Cache::new(Box::new(|_| ()), false);
    harbour.platform.await_sync(&late);
    harbour.run(harbour.controller());
    assert!(harbour.reconciled().await.is_empty());
    assert_eq!(harbour.platform.unsynced(), ["ConfigMap"]);
    late.observe(Event::Init);
    late.observe(Event::InitDone);
    assert_eq!(harbour.reconciled().await, ["a"]);
}

#[tokio::test(start_paused = true)]
async fn shutdown_waits_for_running_reconciles_and_starts_none() {
    let harbour = Harbour::new(&["a", "b"]);
    let running = tokio::spawn(harbour.controller().concurrency(1).run(harbour.yard.clone()).future);
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(harbour.yard.at_once.load(Ordering::SeqCst), 1);
    harbour.platform.shutdown().cancel();
    running.await.unwrap();
    assert_eq!(harbour.reconciled().await.len(), 1);
    assert_eq!(harbour.server.take_writes().len(), 2, "the child and the status of the one that ran");
}

#[tokio::test(start_paused = true)]
async fn kinds_without_a_status_of_ours_are_reconciled() {
    struct Counter(Arc<AtomicUsize>);
    impl PlainReconciler for Counter {
        type Kind = ConfigMap;
        const NAME: &'static str = "counter";
        async fn reconcile(&self, _: &ConfigMap) -> Result<Option<Duration>, Error> {
            self.0.fetch_add(1, Ordering::SeqCst);
            Ok(Some(Duration::from_secs(60)))
        }
    }
    let server = ApiServer::new();
    let mut object = named(ConfigMap::default(), "port", "a");
    object.metadata.resource_version = Some("1".into());
    let cache = testing::cache([object.clone()]);
    let count = Arc::new(AtomicUsize::new(0));
    tokio::spawn(Controller::new(&server.platform(), &cache).run_plain(Counter(count.clone())).future);
    tokio::time::sleep(Duration::from_secs(30)).await;
    object.metadata.resource_version = Some("2".into());
    cache.observe(Event::Apply(object));
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(count.load(Ordering::SeqCst), 2, "a kind without generations is triggered by each version");
    tokio::time::sleep(Duration::from_secs(61)).await;
    assert_eq!(count.load(Ordering::SeqCst), 3);
}
