//! Several replicas of a controller on one API server that reconcile all the time. The reconcilers record an object that two
//! replicas reconcile at once; a test with a fence that never falls shows that they would.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::Request;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use kube::client::Body;
use kube::{Client, ResourceExt};
use parking_lot::Mutex;
use tokio::task::JoinHandle;

use super::{Ship, ShipStatus, named, ship};
use crate::ObjectRef;
use crate::controller::{Controller, Trigger};
use crate::error::Error;
use crate::partitions::coordinator::{Coordinator, Eligibility};
use crate::partitions::{Fence, Partitions};
use crate::platform::Platform;
use crate::reconciler::{Progress, Reconciler};
use crate::testing::{self, ApiServer};

const SHIPS: usize = 24;

/// Which replica reconciles which object.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Reconciles>>);

#[derive(Default)]
struct Reconciles {
    running: BTreeMap<String, BTreeSet<String>>,
    /// Objects, and the replicas that reconciled them at once.
    clashes: Vec<String>,
    /// For each object, the replicas that reconciled it since the last check.
    since: BTreeMap<String, BTreeSet<String>>,
}

impl Log {
    fn begin(&self, replica: &str, ship: &str) -> Running {
        let mut log = self.0.lock();
        let running = log.running.entry(ship.to_owned()).or_default();
        running.insert(replica.to_owned());
        if running.len() > 1 {
            let clash = format!("{ship}: {running:?}");
            log.clashes.push(clash);
        }
        log.since.entry(ship.to_owned()).or_default().insert(replica.to_owned());
        Running { log: self.clone(), replica: replica.to_owned(), ship: ship.to_owned() }
    }

    fn clashes(&self) -> Vec<String> {
        self.0.lock().clashes.clone()
    }

    /// Waits, and asserts that every object was reconciled, by these replicas together.
    async fn all_are_reconciled_by(&self, replicas: &[&str]) {
        self.0.lock().since.clear();
        tokio::time::sleep(Duration::from_secs(30)).await;
        let since = std::mem::take(&mut self.0.lock().since);
        assert_eq!(since.len(), SHIPS, "every object is reconciled: {since:?}");
        let who: BTreeSet<&str> = since.values().flatten().map(String::as_str).collect();
        assert_eq!(who, replicas.iter().copied().collect());
    }
}

/// Ends when it is dropped, as by an abort.
struct Running {
    log: Log,
    replica: String,
    ship: String,
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(running) = self.log.0.lock().running.get_mut(&self.ship) {
            running.remove(&self.replica);
        }
    }
}

struct Rigger {
    replica: String,
    log: Log,
}

impl Reconciler for Rigger {
    type Kind = Ship;
    const NAME: &'static str = "rigger";

    async fn reconcile(&self, ship: &Ship) -> Result<Progress<ShipStatus>, Error> {
        let _running = self.log.begin(&self.replica, &ship.name_any());
        tokio::time::sleep(Duration::from_millis(200)).await;
        Ok(Progress::new(ship.status.clone().unwrap_or_default()))
    }
}

/// A replica, as `run` makes it.
struct Replica {
    platform: Platform,
    cut: Arc<AtomicBool>,
    controller: JoinHandle<()>,
    coordinator: JoinHandle<()>,
    load: JoinHandle<()>,
}

impl Replica {
    fn start(server: &ApiServer, log: &Log, name: &str, partitions: Partitions) -> Self {
        let cut = Arc::new(AtomicBool::new(false));
        let platform = server.replica(name, cuttable(server.client(), cut.clone()), partitions);
        let ships = testing::cache((0..SHIPS).map(|number| ship(server, &format!("ship-{number:02}"))));
        let controller = Controller::new(&platform, &ships);
        let load = tokio::spawn(wake_all(controller.trigger()));
        let rigger = Rigger { replica: name.to_owned(), log: log.clone() };
        let controller = tokio::spawn(controller.run(rigger).future);
        let end = controller.abort_handle();
        let running = platform.clone();
        let coordinator = tokio::spawn(async move {
            let mut coordinator = coordinator(&running);
            let stopping = running.shutdown().clone();
            coordinator.run(|| Eligibility { may_take: !stopping.is_cancelled() }, running.metrics()).await;
            // Like the end of the process.
            end.abort();
        });
        Replica { platform, cut, controller, coordinator, load }
    }

    fn held(&self) -> usize {
        self.platform.partitions().held().len()
    }

    /// As SIGTERM does.
    async fn stop(self) {
        self.platform.shutdown().cancel();
        self.controller.await.unwrap();
        self.coordinator.abort();
        self.load.abort();
        coordinator(&self.platform).resign().await.unwrap();
    }

    /// As kill -9 does.
    fn kill(self) {
        self.controller.abort();
        self.coordinator.abort();
        self.load.abort();
    }
}

fn coordinator(platform: &Platform) -> Coordinator {
    let (client, partitions) = (platform.client.clone(), platform.partitions());
    Coordinator::new(client, platform.namespace(), platform.name(), platform.instance(), partitions)
}

/// A client whose requests are not answered once `cut` is set.
fn cuttable(client: Client, cut: Arc<AtomicBool>) -> Client {
    let service = tower::service_fn(move |request: Request<Body>| {
        let (client, cut) = (client.clone(), cut.clone());
        async move {
            if cut.load(Ordering::Relaxed) {
                return std::future::pending().await;
            }
            client.send(request).await
        }
    });
    Client::new(service, "default")
}

async fn wake_all(trigger: Trigger<Ship>) {
    loop {
        tokio::time::sleep(Duration::from_millis(500)).await;
        (0..SHIPS).for_each(|number| trigger.request(&ObjectRef::new(&format!("ship-{number:02}"))));
    }
}

async fn seconds(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

#[tokio::test(start_paused = true)]
async fn partitions_move_between_replicas_and_no_object_is_reconciled_twice_at_once() {
    let (server, log) = (ApiServer::new(), Log::default());
    let start = |name: &str| Replica::start(&server, &log, name, Partitions::elected(3));
    let a = start("a");
    seconds(10).await;
    assert_eq!(a.held(), 3);
    log.all_are_reconciled_by(&["a"]).await;

    let (b, c) = (start("b"), start("c"));
    seconds(40).await;
    assert_eq!([&a, &b, &c].map(Replica::held), [1, 1, 1]);
    log.all_are_reconciled_by(&["a", "b", "c"]).await;

    // It releases its partition when it stops.
    c.stop().await;
    seconds(10).await;
    assert_eq!(a.held() + b.held(), 3);
    log.all_are_reconciled_by(&["a", "b"]).await;

    // Killed, its partitions are free when its Lease has not been renewed for 15 seconds.
    b.kill();
    seconds(12).await;
    assert!(a.held() < 3, "too early");
    seconds(20).await;
    assert_eq!(a.held(), 3);
    log.all_are_reconciled_by(&["a"]).await;

    // A container that is restarted in its pod finds its own Leases.
    a.kill();
    let a = start("a");
    seconds(10).await;
    assert!(a.held() > 0);
    // It leaves some to the dead replica until it has observed itself that this one is dead.
    seconds(15).await;
    assert_eq!(a.held(), 3);
    log.all_are_reconciled_by(&["a"]).await;
    assert_eq!(log.clashes(), [""; 0]);
    let metrics = a.platform.metrics().encode().unwrap();
    assert!(
        metrics.contains("ahoi_partitions_held 3")
            && metrics.contains(r#"ahoi_partition_takeovers_total{from="free"} 3"#)
    );
}

/// A replica that is cut off, and the one that takes over.
async fn cut_off(log: &Log, partitions: Partitions) {
    let server = ApiServer::new();
    let a = Replica::start(&server, log, "a", partitions);
    seconds(10).await;
    assert_eq!(a.held(), 2);
    a.cut.store(true, Ordering::Relaxed);
    let b = Replica::start(&server, log, "b", Partitions::elected(2));
    seconds(40).await;
    assert_eq!(b.held(), 2);
    log.all_are_reconciled_by(&["b"]).await;
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_cannot_renew_stops_before_another_takes_over() {
    let log = Log::default();
    cut_off(&log, Partitions::elected(2)).await;
    assert_eq!(log.clashes(), [""; 0]);
}

#[tokio::test(start_paused = true)]
#[should_panic(expected = "{\"a\", \"b\"}")]
async fn without_a_fence_two_replicas_reconcile_one_object() {
    let log = Log::default();
    cut_off(&log, Partitions::with_fence(2, Fence::open_for_ever())).await;
}

#[tokio::test(start_paused = true)]
async fn a_partition_is_released_after_its_reconciles_have_ended() {
    let (server, log) = (ApiServer::new(), Log::default());
    let a = Replica::start(&server, &log, "a", Partitions::elected(2));
    seconds(10).await;
    // A reconcile that takes a minute, in each partition.
    let partitions = a.platform.partitions().clone();
    let long: Vec<_> = (0..2).map(|partition| partitions.enter(partition).unwrap()).collect();
    let b = Replica::start(&server, &log, "b", Partitions::elected(2));
    seconds(60).await;
    assert_eq!((a.held(), b.held()), (2, 0));
    assert_eq!(
        (0..2).filter(|partition| partitions.has(*partition)).count(),
        1,
        "no more reconciles start in the one that is released"
    );
    drop(long);
    seconds(10).await;
    assert_eq!((a.held(), b.held()), (1, 1));
    assert_eq!(log.clashes(), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn replicas_with_another_number_of_partitions_wait() {
    let (server, log) = (ApiServer::new(), Log::default());
    let start = |name: &str, count| Replica::start(&server, &log, name, Partitions::elected(count));
    // A leader of a controller with one partition, which renews its Lease.
    let leader = |holder: &str, times: i32| {
        let spec = LeaseSpec {
            holder_identity: Some(holder.to_owned()),
            lease_transitions: Some(times),
            ..LeaseSpec::default()
        };
        server.put(&Lease { spec: Some(spec), ..named(Lease::default(), "ahoi-system", "test") });
    };
    leader("leader", 0);
    let (a, b) = (start("a", 2), start("b", 2));
    for times in 1..20 {
        seconds(2).await;
        leader("leader", times);
    }
    assert_eq!(a.held() + b.held(), 0);
    leader("", 20);
    seconds(15).await;
    assert_eq!(a.held() + b.held(), 2, "the leader has released its Lease");

    let c = start("c", 3);
    seconds(60).await;
    assert_eq!((a.held() + b.held(), c.held()), (2, 0));
    a.stop().await;
    seconds(60).await;
    assert_eq!((b.held(), c.held()), (2, 0), "one of the others still runs");
    b.kill();
    seconds(30).await;
    assert_eq!(c.held(), 3);
    log.all_are_reconciled_by(&["c"]).await;
    assert_eq!(log.clashes(), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_replica_whose_lease_is_taken_exits() {
    let (server, log) = (ApiServer::new(), Log::default());
    let a = Replica::start(&server, &log, "a", Partitions::elected(2));
    seconds(10).await;
    let lease = server.get(&named(Lease::default(), "ahoi-system", "test-1-of-2")).unwrap();
    assert_eq!(lease.spec.as_ref().unwrap().holder_identity.as_deref(), Some("a"));
    let spec = LeaseSpec { holder_identity: Some("another".into()), ..LeaseSpec::default() };
    server.put(&named(Lease { spec: Some(spec), ..lease }, "ahoi-system", "test-1-of-2"));
    server.take_requests();
    seconds(5).await;
    assert_eq!((a.coordinator.is_finished(), a.controller.is_finished()), (true, true));
}

#[tokio::test(start_paused = true)]
async fn a_partition_whose_lease_is_deleted_is_free_when_its_holder_must_have_noticed() {
    let (server, log) = (ApiServer::new(), Log::default());
    let start = |name: &str| Replica::start(&server, &log, name, Partitions::elected(3));
    let a = start("a");
    seconds(10).await;
    let b = start("b");
    seconds(30).await;
    assert_eq!((a.held(), b.held()), (2, 1));
    // It cannot read the Lease, and works until its fence falls.
    a.cut.store(true, Ordering::Relaxed);
    let partition = a.platform.partitions().held()[0];
    server.remove(&named(Lease::default(), "ahoi-system", &format!("test-{partition}-of-3")));
    seconds(12).await;
    assert_eq!(b.held(), 1, "too early");
    seconds(30).await;
    assert_eq!(b.held(), 3);
    log.all_are_reconciled_by(&["b"]).await;
    assert_eq!(log.clashes(), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn balanced_replicas_send_few_requests() {
    let (server, log) = (ApiServer::new(), Log::default());
    let replicas = ["a", "b", "c"].map(|name| Replica::start(&server, &log, name, Partitions::elected(6)));
    seconds(60).await;
    assert_eq!(replicas.each_ref().map(Replica::held), [2, 2, 2]);
    server.take_requests();
    seconds(60).await;
    let requests = server.take_requests();
    let count = |method: &str| requests.iter().filter(|request| request.method == method).count();
    // Each replica every two seconds: two reads and its own renewal; and one of them renews the Lease of the layout.
    assert!((170..=200).contains(&count("GET")), "{}", count("GET"));
    assert!((110..=140).contains(&count("PUT")), "{}", count("PUT"));
    assert_eq!(count("GET") + count("PUT"), requests.len());
}

#[tokio::test(start_paused = true)]
async fn a_single_leader_holds_one_lease_and_a_standby_takes_over() {
    let (server, log) = (ApiServer::new(), Log::default());
    let start = |name: &str| Replica::start(&server, &log, name, Partitions::elected(1));
    let a = start("a");
    seconds(1).await;
    assert_eq!(a.held(), 1, "a Lease that never existed has no holder");
    let b = start("b");
    log.all_are_reconciled_by(&["a"]).await;
    assert_eq!(server.take_requests().iter().filter(|request| request.path.ends_with("replica-a")).count(), 0);

    // It releases the Lease when it stops.
    a.stop().await;
    seconds(4).await;
    assert_eq!(b.held(), 1);
    log.all_are_reconciled_by(&["b"]).await;

    let c = start("c");
    seconds(10).await;
    b.kill();
    seconds(12).await;
    assert_eq!(c.held(), 0, "too early");
    seconds(6).await;
    assert_eq!(c.held(), 1);
    log.all_are_reconciled_by(&["c"]).await;

    // A container that is restarted in its pod finds its own Lease.
    c.kill();
    let c = start("c");
    seconds(1).await;
    assert_eq!(c.held(), 1);

    server.take_requests();
    let d = start("d");
    seconds(60).await;
    assert_eq!((c.held(), d.held()), (1, 0));
    let requests = server.take_requests();
    let count = |method: &str| requests.iter().filter(|request| request.method == method).count();
    assert!((25..=36).contains(&count("PUT")) && (25..=36).contains(&count("GET")), "{}", requests.len());
    assert_eq!(count("GET") + count("PUT"), requests.len());
    assert_eq!(log.clashes(), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_cannot_renew_stops_before_the_standby_takes_over() {
    let (server, log) = (ApiServer::new(), Log::default());
    let a = Replica::start(&server, &log, "a", Partitions::elected(1));
    seconds(10).await;
    let b = Replica::start(&server, &log, "b", Partitions::elected(1));
    seconds(10).await;
    a.cut.store(true, Ordering::Relaxed);
    seconds(30).await;
    assert_eq!((a.coordinator.is_finished(), b.held()), (true, 1));
    log.all_are_reconciled_by(&["b"]).await;
    assert_eq!(log.clashes(), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_leader_keeps_a_lease_that_still_names_it_and_exits_otherwise() {
    let (server, log) = (ApiServer::new(), Log::default());
    let a = Replica::start(&server, &log, "a", Partitions::elected(1));
    seconds(10).await;
    let lease = || {
        let lease = server.get(&named(Lease::default(), "ahoi-system", "test")).unwrap();
        named(lease, "ahoi-system", "test")
    };
    let mut annotated = lease();
    annotated.metadata.annotations = Some([("note".to_owned(), "x".to_owned())].into());
    server.put(&annotated);
    seconds(20).await;
    assert_eq!((a.held(), a.coordinator.is_finished()), (1, false));

    let spec = LeaseSpec { holder_identity: Some("z".into()), ..LeaseSpec::default() };
    server.put(&Lease { spec: Some(spec), ..lease() });
    seconds(5).await;
    assert_eq!((a.coordinator.is_finished(), a.controller.is_finished()), (true, true));
    let b = Replica::start(&server, &log, "b", Partitions::elected(1));
    seconds(10).await;
    assert_eq!(b.held(), 0);
    server.remove(&lease());
    seconds(10).await;
    assert_eq!(b.held(), 0, "the holder of a deleted Lease may not have noticed it yet");
    seconds(10).await;
    assert_eq!(b.held(), 1);
}
