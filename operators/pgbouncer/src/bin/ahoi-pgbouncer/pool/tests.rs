//! The life of a pool, one reconcile after the other, against an API server in memory.

mod moves;

use std::sync::Arc;

use ahoi_api::{
    Binding, ConnectionPool, ConnectionPoolSpec, ConnectionPoolStatus, CredentialsStatus, Database, DatabaseServer,
    DatabaseServerStatus, DatabaseSpec, DatabaseStatus, FormerState, LocalRef, NamespacedRef, PgBouncer, PgBouncerSpec,
    PgBouncerStatus, PoolState, ProcessStatus, RefusedRoute, Route,
};
use ahoi_pgbouncer::pool::version;
use ahoi_reconcile::testing::{ApiServer, cache, ready, unreadable};
use ahoi_reconcile::{Cache, Class, Error, Owned, Reconciler};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{Pod, PodCondition, PodStatus, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::Resource;

use super::PoolController;
use super::dereference::Sources;
use crate::shared::Shared;

const NAMESPACE: &str = "customer-a";

fn named<K: Resource>(mut object: K, namespace: Option<&str>, name: &str) -> K {
    object.meta_mut().namespace = namespace.map(Into::into);
    object.meta_mut().name = Some(name.into());
    object.meta_mut().uid = Some(format!("uid-{name}"));
    object.meta_mut().generation = Some(1);
    object
}

fn pool() -> ConnectionPool {
    let spec = ConnectionPoolSpec {
        database_ref: LocalRef { name: "a".into() },
        pg_bouncer_ref: NamespacedRef { namespace: "ahoi-system".into(), name: "global".into() },
        ..ConnectionPoolSpec::default()
    };
    let mut pool = named(ConnectionPool::new("a", spec), Some(NAMESPACE), "a");
    pool.metadata.resource_version = Some("100".into());
    pool
}

fn database() -> Database {
    let spec = DatabaseSpec {
        storage: serde_json::from_value("1gb".into()).unwrap(),
        server_selector: [].into(),
        connection_limit: None,
        parameters: [].into(),
        extensions: Vec::new(),
        credentials: None,
        refuse_data_before: None,
        deletion_policy: ahoi_api::DeletionPolicy::Retain,
    };
    let mut database = named(Database::new("a", spec), Some(NAMESPACE), "a");
    database.status = Some(DatabaseStatus {
        server: Some("pg-1".into()),
        database_name: Some("c_a".into()),
        binding: Some(Binding { name: "a-database".into(), version: "1".into() }),
        ..DatabaseStatus::default()
    });
    ready(database)
}

fn server() -> DatabaseServer {
    let spec = serde_json::from_value(serde_json::json!({
"host": "pg-1", "port": 5432, "adminSecretRef": {"namespace": "ahoi-system", "name": "pg-1"}}))
    .unwrap();
    let mut server = named(DatabaseServer::new("pg-1", spec), None, "pg-1");
    server.status =
        Some(DatabaseServerStatus { pooler_login: Some("ahoi_pooler_1_a".into()), ..DatabaseServerStatus::default() });
    server
}

fn fleet(name: &str, processes: Vec<ProcessStatus>) -> PgBouncer {
    let spec = PgBouncerSpec {
        replicas: 2,
        shards: 1,
        max_routes_per_shard: 1,
        default_pool_size: 8,
        ..PgBouncerSpec::default()
    };
    let mut fleet = named(PgBouncer::new(name, spec), Some("ahoi-system"), name);
    fleet.status = Some(PgBouncerStatus { processes, ..PgBouncerStatus::default() });
    fleet
}

fn pod(name: &str) -> Pod {
    let condition = PodCondition { type_: "Ready".into(), status: "True".into(), ..PodCondition::default() };
    let status = PodStatus { conditions: Some(vec![condition]), ..PodStatus::default() };
    named(Pod { status: Some(status), ..Pod::default() }, Some("ahoi-system"), name)
}

fn both(proved_version: i64) -> Vec<ProcessStatus> {
    vec![process("global-0", proved_version), process("global-1", proved_version)]
}

/// Everything around a pool; a test changes it between two reconciles.
struct World {
    api: ApiServer,
    pool: ConnectionPool,
    fleets: Vec<PgBouncer>,
    pods: Vec<Pod>,
    databases: Vec<Database>,
    /// Other pools.
    others: Vec<ConnectionPool>,
    pooled: Cache<Secret>,
    login: (&'static str, &'static str),
}

impl World {
    fn new() -> Self {
        let (api, pool) = (ApiServer::new(), pool());
        let fleets = vec![fleet("global", both(50)), fleet("other", vec![])];
        let pods = vec![pod("global-0"), pod("global-1")];
        let (databases, login) = (vec![database()], ("c_a_a", "secret"));
        World { api, pool, fleets, pods, databases, others: vec![], pooled: cache([]), login }
    }

    fn controller(&self) -> PoolController {
        let platform = self.api.platform();
        let data = [("username", self.login.0), ("password", self.login.1)];
        let data = data.map(|(name, value)| (name.to_owned(), ByteString(value.into())));
        let direct = Secret { data: Some(data.into()), ..Secret::default() };
        PoolController {
            sources: Sources {
                shared: Shared {
                    fleets: cache(self.fleets.clone()),
                    pods: cache(self.pods.clone()),
                    pools: cache([self.pool.clone()].into_iter().chain(self.others.clone())),
                    placements: Arc::default(),
                    servers: cache([server()]),
                    secrets: cache([]),
                },
                databases: cache(self.databases.clone()),
                direct: cache([named(direct, Some(NAMESPACE), "a-database")]),
            },
            pooled: Owned::new(&platform, &self.pooled),
            platform,
        }
    }

    /// Reconciles once and stores the status. Returns reason and message of Ready, and what else was written.
    async fn reconcile(&mut self) -> (String, Vec<String>) {
        let status = self.controller().reconcile(&self.pool).await.unwrap().status;
        if self.pool.status.as_ref() != Some(&status) {
            self.pool.status = Some(status.clone());
            let version = version(&self.pool) + 1;
            self.pool.metadata.resource_version = Some(version.to_string());
        }
        let ready = status.conditions.iter().find(|condition| condition.type_ == "Ready").unwrap();
        (format!("{}: {}", ready.reason, ready.message), self.api.take_writes())
    }

    /// The agents have loaded everything there is.
    fn prove(&mut self) {
        self.fleets[0] = fleet("global", both(version(&self.pool)));
    }
}

const ROUTING: &str = "Routing: waiting for every process of the PgBouncer ahoi-system/global to load the route";
const READY: &str = "Ready: every process of the PgBouncer fleet serves the pool";

#[tokio::test]
async fn a_new_pool_costs_a_secret_and_two_statuses() {
    let mut world = World::new();
    let (ready, writes) = world.reconcile().await;
    assert_eq!(ready, ROUTING);
    assert_eq!(writes, ["POST /api/v1/namespaces/customer-a/secrets"]);
    assert_eq!(version(&world.pool), 101);

    assert_eq!(world.reconcile().await, (ROUTING.into(), vec![]), "no process has proved it");
    assert_eq!(version(&world.pool), 101, "so nothing is written");

    world.prove();
    assert_eq!(world.reconcile().await, (READY.into(), vec![]));
    assert_eq!(version(&world.pool), 102);
    assert_eq!(
        world.reconcile().await,
        (READY.into(), vec![]),
        "it stays Ready although its status is newer than the proof"
    );
    assert_eq!(version(&world.pool), 102);
}

#[tokio::test]
async fn a_change_is_announced_proved_and_then_ready() {
    let mut world = World::new();
    world.reconcile().await;
    world.prove();
    world.reconcile().await;
    world.pool.spec.pool_size = Some(3);
    assert_eq!(world.reconcile().await, (ROUTING.into(), vec![]));
    assert_eq!(world.pool.status.as_ref().unwrap().route.as_ref().unwrap().pool_size, 3);
    assert_eq!(world.reconcile().await.0, ROUTING, "the proof is about the previous route");
    world.prove();
    assert_eq!(world.reconcile().await.0, READY);
}

#[tokio::test]
async fn a_fleet_that_cannot_be_read_was_not_deleted() {
    let mut world = World::new();
    world.reconcile().await;
    let fleet = world.fleets.remove(0);
    let controller = world.controller();
    unreadable(&controller.sources.shared.fleets, &fleet);
    assert_eq!(controller.reconcile(&world.pool).await.unwrap_err().reason(), "Unreadable");
    world.api.put(&world.pool);
    let outcome = controller.cleanup(&world.pool).await;
    assert!(matches!(outcome, Err(Error::Waiting { .. })), "its route may be loaded: {outcome:?}");
}

/// The Database's credentials were rotated, and its previous login is still open.
fn rotate(world: &mut World) {
    world.login = ("c_a_b", "another");
    let begun = CredentialsStatus {
        rotated_at: Time("2026-01-01T00:00:00Z".parse().unwrap()),
        rotation_request: None,
        previous_login: Some("c_a_a".into()),
        lost_secrets: None,
    };
    world.databases[0].status.as_mut().unwrap().credentials = Some(begun);
}

#[tokio::test]
async fn new_credentials_are_published_when_every_process_accepts_them() {
    let mut world = World::new();
    world.reconcile().await;
    world.prove();
    world.reconcile().await;
    rotate(&mut world);
    // No process listens there.
    world.pods[1].status.as_mut().unwrap().pod_ip = Some("127.0.0.1".into());
    assert_eq!(world.reconcile().await, (READY.into(), vec![]), "applications keep what works");
    let status = world.pool.status.clone().unwrap();
    let condition = status.conditions.iter().find(|condition| condition.type_ == "CredentialsProved").unwrap();
    assert_eq!(
        condition.message,
        "the new login c_a_b does not work through pod global-1 yet: the process is unreachable. Applications keep the \
         previous login; the next attempt is in 5 s"
    );
    assert_eq!(status.route.unwrap().retiring, None, "applications have no other login");

    world.pods[1].status.as_mut().unwrap().pod_ip = None;
    let written = vec!["PUT /api/v1/namespaces/customer-a/secrets/a-pool".to_owned()];
    assert_eq!(world.reconcile().await, (READY.into(), written));
    let status = world.pool.status.clone().unwrap();
    assert!(status.conditions.iter().all(|condition| condition.type_ != "CredentialsProved"));
    assert_eq!(status.route.unwrap().retiring.as_deref(), Some("c_a_a"));
    assert_eq!(status.unused_login, None, "no process has reported");
}

#[tokio::test]
async fn a_previous_login_is_unused_when_every_process_reports_so() {
    let mut world = World::new();
    world.reconcile().await;
    world.prove();
    world.reconcile().await;
    rotate(&mut world);
    world.reconcile().await;
    let unused = |world: &World| world.pool.status.as_ref().unwrap().unused_login.clone();
    world.prove();
    world.fleets[0].status.as_mut().unwrap().processes[1].retiring = vec!["c_a_a".into()];
    assert_eq!(world.reconcile().await, (READY.into(), vec![]));
    assert_eq!(unused(&world), None, "one process has clients of it");
    world.prove();
    world.reconcile().await;
    assert_eq!(unused(&world).as_deref(), Some("c_a_a"));
    world.reconcile().await;
    assert_eq!(unused(&world).as_deref(), Some("c_a_a"), "its status is newer than the proof");

    world.databases[0].status.as_mut().unwrap().credentials.as_mut().unwrap().previous_login = None;
    assert_eq!(world.reconcile().await, (READY.into(), vec![]));
    let status = world.pool.status.as_ref().unwrap();
    assert_eq!((status.route.as_ref().unwrap().retiring.as_ref(), status.unused_login.as_ref()), (None, None));
}

#[tokio::test]
async fn a_pod_that_starts_or_stops_changes_nothing_for_ready_pools() {
    let mut world = World::new();
    world.reconcile().await;
    world.prove();
    world.reconcile().await;
    world.fleets[0] = fleet("global", vec![]);
    world.pods.clear();
    assert_eq!(world.reconcile().await, (READY.into(), vec![]));
}

#[tokio::test]
async fn without_processes_a_pool_waits_for_them() {
    let mut world = World::new();
    world.pods.clear();
    let (ready, _) = world.reconcile().await;
    assert_eq!(ready, "NoProcesses: waiting for a ready process of the PgBouncer ahoi-system/global");
    world.pods = vec![pod("global-1")];
    world.prove();
    assert_eq!(world.reconcile().await.0, READY, "one ready process is enough");
}

#[tokio::test]
async fn a_refused_route_is_reported() {
    let mut world = World::new();
    world.reconcile().await;
    world.prove();
    let refused = RefusedRoute { pool: "customer-a/a".into(), reason: "too odd".into() };
    world.fleets[0].status.as_mut().unwrap().processes[1].refused.push(refused);
    assert_eq!(world.reconcile().await.0, "RouteRefused: the PgBouncer fleet refuses this route: too odd");
}

#[tokio::test]
async fn a_pool_that_is_refused_later_is_not_ready_until_it_is_loaded() {
    let mut world = World::new();
    world.reconcile().await;
    world.prove();
    world.reconcile().await;
    let refuse = |world: &mut World| {
        let refused = RefusedRoute { pool: "customer-a/a".into(), reason: "too odd".into() };
        world.fleets[0].status.as_mut().unwrap().processes[1].refused.push(refused);
    };
    refuse(&mut world);
    let refused = "RouteRefused: the PgBouncer fleet refuses this route: too odd";
    assert_eq!(world.reconcile().await, (refused.into(), vec![]));
    let before = version(&world.pool);
    assert_eq!(world.reconcile().await.0, refused, "its status is newer than the report");
    assert_eq!(version(&world.pool), before);
    world.prove();
    assert_eq!(world.reconcile().await.0, READY);
    refuse(&mut world);
    world.pods.pop();
    assert_eq!(world.reconcile().await.0, READY, "the process that refuses it gets no clients");
}

#[tokio::test]
async fn only_a_new_pool_waits_for_its_database() {
    let mut world = World::new();
    world.databases[0].status.as_mut().unwrap().conditions.clear();
    let error = world.controller().reconcile(&world.pool).await.unwrap_err();
    assert_eq!(error.reason(), "WaitingForDatabase");
    world.databases = vec![database()];
    world.reconcile().await;
    world.databases[0].status.as_mut().unwrap().conditions.clear();
    assert_eq!(world.reconcile().await.0, ROUTING);
}

#[tokio::test]
async fn deletion_disables_then_removes_then_is_done() {
    let mut world = World::new();
    world.reconcile().await;
    world.prove();
    world.reconcile().await;
    world.pool.metadata.deletion_timestamp = Some(Time(k8s_openapi::jiff::Timestamp::now()));
    world.pool.metadata.finalizers = Some(vec![ahoi_api::finalizers::CONNECTION_POOL.into()]);
    world.pool.metadata.resource_version = None;
    world.pool = world.api.put(&world.pool);

    let wait = async |world: &mut World, step: &str, state: Option<PoolState>| {
        match world.controller().cleanup(&world.pool).await {
            Err(Error::Waiting { reason, .. }) => assert_eq!(reason, step),
            other => panic!("{other:?} instead of {step}"),
        }
        world.pool = world.api.get(&world.pool).unwrap();
        assert_eq!(world.pool.status.as_ref().unwrap().route.as_ref().map(|route| route.state), state);
    };
    world.fleets[0] = fleet("global", both(0));
    wait(&mut world, "Draining", Some(PoolState::Disabled)).await;
    assert_eq!(world.api.take_writes().len(), 1);
    wait(&mut world, "Draining", Some(PoolState::Disabled)).await;
    assert_eq!(world.api.take_writes(), Vec::<String>::new(), "no process has proved it");
    world.prove();
    wait(&mut world, "Unrouting", None).await;
    wait(&mut world, "Unrouting", None).await;
    world.prove();
    assert!(world.controller().cleanup(&world.pool).await.is_ok());

    world.fleets[0] = fleet("global", both(0));
    world.pool.metadata.deletion_timestamp = Some(Time("2026-01-01T00:00:00Z".parse().unwrap()));
    assert!(world.controller().cleanup(&world.pool).await.is_ok(), "a dead pod blocks nothing for ever");
    world.fleets.clear();
    assert!(world.controller().cleanup(&world.pool).await.is_ok(), "the fleet was deleted");
}

fn process(pod: &str, proved_version: i64) -> ProcessStatus {
    ProcessStatus { pod: pod.into(), uid: format!("uid-{pod}"), proved_version, ..ProcessStatus::default() }
}

/// A pool that fills the first shard.
fn neighbour() -> ConnectionPool {
    let mut neighbour = named(pool(), Some("customer-b"), "b");
    neighbour.status = Some(ConnectionPoolStatus { route: Some(Route::default()), ..ConnectionPoolStatus::default() });
    neighbour
}

#[tokio::test]
async fn a_full_fleet_refuses_pools_until_it_has_another_shard() {
    let mut world = World::new();
    world.others = vec![neighbour()];
    let error = world.controller().reconcile(&world.pool).await.unwrap_err();
    assert_eq!((error.reason(), error.class()), ("NoFreeCapacity", Class::Structural));
    assert_eq!(world.api.take_writes(), Vec::<String>::new());

    world.fleets[0].spec.shards = 2;
    let (ready, _) = world.reconcile().await;
    assert_eq!(ready, "NoProcesses: waiting for a ready process of shard 1 of the PgBouncer ahoi-system/global");
    assert_eq!(world.pool.status.as_ref().unwrap().place.as_ref().unwrap().shard, 1);
    let secret = world.pooled.get_in(NAMESPACE, "a-pool").unwrap();
    assert_eq!(secret.data.as_ref().unwrap()["host"].0, b"global-s1.ahoi-system.svc");

    world.pods.push(pod("global-s1-0"));
    world.prove();
    let routing = "Routing: waiting for every process of shard 1 of the PgBouncer ahoi-system/global to load the route";
    assert_eq!(world.reconcile().await.0, routing, "another shard's processes prove nothing");
    let before = version(&world.pool);
    world.fleets[0].status.as_mut().unwrap().processes.push(process("global-s1-0", before));
    assert_eq!(world.reconcile().await, ("Ready: every process of its shard serves the pool".into(), vec![]));

    world.fleets[0].spec.shards = 1;
    world.others.clear();
    let before = version(&world.pool);
    assert_eq!(world.reconcile().await.0, "Ready: every process of its shard serves the pool");
    assert_eq!(version(&world.pool), before, "neither fewer shards nor free capacity elsewhere move it");
}

#[tokio::test]
async fn a_pool_from_before_there_were_shards_stays_as_it_is() {
    let mut world = World::new();
    world.reconcile().await;
    world.prove();
    world.reconcile().await;
    let place = world.pool.status.as_mut().unwrap().place.take();
    let before = version(&world.pool);
    world.fleets[0].spec.shards = 2;
    assert_eq!(world.reconcile().await, (READY.into(), vec![]));
    assert_eq!(world.pool.status.as_ref().unwrap().place, place, "its place no longer depends on its spec");
    assert_eq!(world.reconcile().await, (READY.into(), vec![]));
    assert_eq!(version(&world.pool), before + 1, "written once");
}
