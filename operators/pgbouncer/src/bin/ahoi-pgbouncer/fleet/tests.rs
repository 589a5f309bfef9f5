//! A fleet that grows and shrinks, one reconcile after the other, against an API server in memory.

use std::sync::Arc;

use ahoi_api::{
    ConnectionPool, ConnectionPoolSpec, ConnectionPoolStatus, LocalRef, NamespacedRef, PgBouncer, PgBouncerSpec, Place,
};
use ahoi_reconcile::testing::{ApiServer, cache};
use ahoi_reconcile::{Cache, Owned, Reconciler};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;

use super::{FleetController, Options};
use crate::shared::Shared;

struct World {
    api: ApiServer,
    fleet: PgBouncer,
    pools: Vec<ConnectionPool>,
    stateful_sets: Cache<StatefulSet>,
    services: Cache<Service>,
    budgets: Cache<PodDisruptionBudget>,
    policies: Cache<NetworkPolicy>,
}

impl World {
    fn new() -> Self {
        let spec = PgBouncerSpec { replicas: 2, shards: 1, max_routes_per_shard: 2, ..PgBouncerSpec::default() };
        let mut fleet = PgBouncer::new("global", spec);
        fleet.metadata.namespace = Some("ahoi-system".into());
        fleet.metadata.uid = Some("uid-global".into());
        fleet.metadata.generation = Some(1);
        World {
            api: ApiServer::new(),
            fleet,
            pools: Vec::new(),
            stateful_sets: cache([]),
            services: cache([]),
            budgets: cache([]),
            policies: cache([]),
        }
    }

    /// Reconciles once and stores the status. Returns the reason of Ready, and what else was written.
    async fn reconcile(&mut self) -> (String, Vec<String>) {
        let platform = self.api.platform();
        let shared = Shared {
            fleets: cache([self.fleet.clone()]),
            pods: cache([]),
            pools: cache(self.pools.clone()),
            placements: Arc::default(),
            servers: cache([]),
            secrets: cache([]),
        };
        let options = Options {
            pgbouncer_image: Some("image".into()),
            agent_service_account: "agent".into(),
            top_customers: None,
        };
        let controller = FleetController {
            options,
            shared,
            stateful_sets: Owned::new(&platform, &self.stateful_sets),
            services: Owned::new(&platform, &self.services),
            budgets: Owned::new(&platform, &self.budgets),
            policies: Owned::new(&platform, &self.policies),
            platform,
        };
        let status = controller.reconcile(&self.fleet).await.unwrap().status;
        let ready = status.conditions.iter().find(|condition| condition.type_ == "Ready").unwrap();
        let reason = ready.reason.clone();
        self.fleet.status = Some(status);
        let short = |write: String| write.replace("/namespaces/ahoi-system", "").replace("/apis", "");
        (reason, self.api.take_writes().into_iter().map(short).collect())
    }
}

fn pool(shard: i32) -> ConnectionPool {
    let fleet = NamespacedRef { namespace: "ahoi-system".into(), name: "global".into() };
    let spec = ConnectionPoolSpec {
        database_ref: LocalRef { name: "a".into() },
        pg_bouncer_ref: fleet.clone(),
        ..ConnectionPoolSpec::default()
    };
    let mut pool = ConnectionPool::new("a", spec);
    pool.metadata.namespace = Some("customer-a".into());
    pool.metadata.uid = Some("uid-a".into());
    pool.status = Some(ConnectionPoolStatus { place: Some(Place { fleet, shard }), ..ConnectionPoolStatus::default() });
    pool
}

/// The object that a fleet has once.
const FLEET: &str = "POST /networking.k8s.io/v1/networkpolicies";
const SHARD: [&str; 4] = [
    "POST /apps/v1/statefulsets",
    "POST /api/v1/services",
    "POST /api/v1/services",
    "POST /policy/v1/poddisruptionbudgets",
];

#[tokio::test]
async fn a_shard_is_added_alone_and_removed_when_it_is_empty() {
    let mut world = World::new();
    let first: Vec<String> = std::iter::once(FLEET).chain(SHARD).map(Into::into).collect();
    assert_eq!(world.reconcile().await, ("Starting".into(), first));
    assert_eq!(world.reconcile().await.1, Vec::<String>::new());

    world.fleet.spec.shards = 2;
    assert_eq!(world.reconcile().await.1, SHARD, "the first stays unchanged");
    assert_eq!(world.reconcile().await.1, Vec::<String>::new());

    world.pools = vec![pool(1)];
    world.fleet.spec.shards = 1;
    assert_eq!(world.reconcile().await, ("ShardsInUse".into(), vec![]));
    world.pools.clear();
    let gone = [
        "DELETE /policy/v1/poddisruptionbudgets/global-s1",
        "DELETE /api/v1/services/global-s1",
        "DELETE /api/v1/services/global-s1-peers",
        "DELETE /apps/v1/statefulsets/global-s1",
    ];
    let (reason, mut deleted) = world.reconcile().await;
    deleted[1..3].sort_unstable();
    assert_eq!((reason.as_str(), deleted), ("Starting", gone.map(String::from).to_vec()));
    assert_eq!(world.reconcile().await.1, Vec::<String>::new());
}

#[tokio::test]
async fn a_pool_in_a_missing_shard_recreates_it() {
    let mut world = World::new();
    world.reconcile().await;
    world.pools = vec![pool(1)];
    assert_eq!(world.reconcile().await, ("ShardsInUse".into(), SHARD.map(Into::into).to_vec()));
}
