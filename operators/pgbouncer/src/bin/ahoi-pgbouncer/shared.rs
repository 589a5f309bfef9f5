//! The caches of both controllers.

use std::sync::Arc;

use ahoi_api::{ConnectionPool, DatabaseServer, NamespacedRef, PgBouncer};
use ahoi_pgbouncer::fleet;
use ahoi_pgbouncer::pool::Serving;
use ahoi_reconcile::{Cache, Error, Platform, is_controlled_by, watcher};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::{Api, ResourceExt};

use crate::placement::{Placements, Pools};

/// Label on the objects of a shard with the name of the shard; that of the first shard is the name of the fleet.
pub const FLEET_LABEL: &str = "internal.example.com/pgbouncer";
/// Label on the same objects with the name of the fleet.
pub const INSTANCE_LABEL: &str = "app.kubernetes.io/instance";

/// The caches, and the shard assignments.
#[derive(Clone, Debug)]
pub struct Shared {
    /// All PgBouncer fleets.
    pub fleets: Cache<PgBouncer>,
    /// The pods of all fleets, with metadata and status only.
    pub pods: Cache<Pod>,
    /// All pools.
    pub pools: Cache<ConnectionPool>,
    /// Shard assignments that are not in the status yet.
    pub placements: Arc<Placements>,
    /// All DatabaseServers.
    pub servers: Cache<DatabaseServer>,
    /// The Secrets in the namespace of Ahoi, where fleets are.
    pub secrets: Cache<Secret>,
}

impl Shared {
    pub fn new(platform: &Platform) -> Self {
        let pods = platform.cache_ours_trimmed(
            Api::all(platform.client.clone()),
            watcher::Config::default().labels(FLEET_LABEL),
            is_controlled_by::<StatefulSet>,
            |pod: &mut Pod| {
                pod.spec = None;
                pod.metadata.annotations = None;
            },
        );
        Shared {
            fleets: platform.watch_all(),
            pods,
            pools: platform.watch_all(),
            placements: Arc::default(),
            servers: platform.watch_all(),
            secrets: platform
                .cache(Api::namespaced(platform.client.clone(), platform.namespace()), watcher::Config::default()),
        }
    }

    /// Names and addresses of the ready pods of a shard.
    pub fn addresses(&self, fleet: &PgBouncer, shard: i32) -> Vec<(String, String)> {
        let namespace = fleet.namespace().unwrap_or_default();
        let address = |serving: Serving| {
            let pod = self.pods.get_in(&namespace, &serving.pod)?;
            Some((serving.pod, pod.status.as_ref()?.pod_ip.clone()?))
        };
        self.serving(fleet, shard).into_iter().filter_map(address).collect()
    }

    /// The fleet, if it exists; an error if it cannot be read.
    pub fn fleet(&self, reference: &NamespacedRef) -> Result<Option<Arc<PgBouncer>>, Error> {
        self.fleets.find(&reference.namespace, &reference.name)
    }

    /// Number of pools of each shard of the fleet.
    pub fn pools_of(&self, fleet: &PgBouncer) -> Pools {
        self.placements.pools(fleet, &self.pools.all())
    }

    /// The pods of so many shards of the fleet.
    pub fn pods_of(&self, fleet: &PgBouncer, shards: i32) -> Vec<Arc<Pod>> {
        let namespace = fleet.namespace().unwrap_or_default();
        let shards = (0..shards).map(|shard| fleet::shard(&fleet.name_any(), shard));
        let names = shards.flat_map(|shard| (0..fleet.spec.replicas).map(move |i| fleet::pod(&shard, i)));
        names.filter_map(|name| self.pods.get_in(&namespace, &name)).collect()
    }

    /// The ready pods of a shard.
    pub fn serving(&self, fleet: &PgBouncer, shard: i32) -> Vec<Serving> {
        let (namespace, name) = (fleet.namespace().unwrap_or_default(), fleet::shard(&fleet.name_any(), shard));
        let pods = (0..fleet.spec.replicas).filter_map(|i| self.pods.get_in(&namespace, &fleet::pod(&name, i)));
        let serving = pods.filter(|pod| is_ready(pod));
        serving.map(|pod| Serving { pod: pod.name_any(), uid: pod.uid().unwrap_or_default() }).collect()
    }
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref()).into_iter().flatten();
    let mut conditions = conditions;
    pod.metadata.deletion_timestamp.is_none()
        && conditions.any(|condition| condition.type_ == "Ready" && condition.status == "True")
}
