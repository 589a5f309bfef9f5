//! ConnectionPool: where it leads, its Secret, and whether every process of the fleet has proved it.

mod cleanup;
mod desired;
mod resolve;
#[cfg(test)]
mod tests;
mod tls;
mod wake;

use ahoi_api::{
    BINDING_LABEL, Binding, ConnectionPool, ConnectionPoolStatus, Database, PgBouncer, PoolState, finalizers,
};
use ahoi_pgbouncer::pool::{Proof, key, proof, version};
use ahoi_reconcile::conditions::{self, READY};
use ahoi_reconcile::{
    Cache, Controller, Error, Object, Owned, Platform, Progress, Reconciler, Runnable, Verdict, watcher,
};
use k8s_openapi::api::core::v1::Secret;
use kube::Api;

use crate::shared::Shared;
use desired::{secret, version_of};
use wake::Wake;

struct PoolController {
    platform: Platform,
    shared: Shared,
    pools: Cache<ConnectionPool>,
    databases: Cache<Database>,
    /// The databases' own binding Secrets.
    direct: Cache<Secret>,
    /// The pools'.
    pooled: Owned<Secret>,
}

/// Starts the caches; what comes back is to be run.
pub fn start(platform: &Platform, shared: &Shared) -> Runnable {
    let secrets = |kind: &str| -> Cache<Secret> {
        let config = watcher::Config::default().labels(&format!("{BINDING_LABEL}={kind}"));
        platform.cache(Api::all(platform.client.clone()), config)
    };
    let controller = PoolController {
        platform: platform.clone(),
        shared: shared.clone(),
        pools: all(platform),
        databases: all(platform),
        direct: secrets("direct"),
        pooled: Owned::new(platform, &secrets("pooled")),
    };
    let wake = Wake::new(&controller.pools);
    Controller::new(platform, &controller.pools)
        .owns(&controller.pooled)
        .watches(&controller.pools, wake.remember())
        .watches(&controller.databases, wake.of_database())
        .watches(&controller.direct, wake.of_secret())
        .watches(&shared.servers, wake.of_server())
        .watches(&shared.fleets, wake.of_fleet())
        .watches(&shared.secrets, wake.of_certificates(&shared.fleets))
        .run(controller)
}

fn all<K: Object>(platform: &Platform) -> Cache<K> {
    platform.cache(Api::all(platform.client.clone()), watcher::Config::default())
}

impl Reconciler for PoolController {
    type Kind = ConnectionPool;
    const NAME: &'static str = "connectionpool";
    const FINALIZER: Option<&'static str> = Some(finalizers::CONNECTION_POOL);

    async fn reconcile(&self, pool: &ConnectionPool) -> Result<Progress<ConnectionPoolStatus>, Error> {
        let resolved = self.resolve(pool)?;
        let route = desired::route(pool, &resolved);
        let secret = tls::secured(secret(pool, &resolved), &resolved);

        let mut status = pool.status.clone().unwrap_or_default();
        let present = self
            .pooled
            .cache()
            .get_in(secret.metadata.namespace.as_deref().unwrap_or_default(), &desired::secret_name(pool));
        // Clients that go to another fleet do so when that one serves them, so the Secret waits for the proof.
        let moves = present.as_ref().is_some_and(|present| !desired::same_host(present, &secret));
        let was_ready = conditions::find(&status.conditions, READY).is_some_and(|ready| ready.status == "True");
        let announced = status.route.as_ref() == Some(&route) && !(was_ready && moves);

        let verdict = if !announced {
            status.route = Some(route);
            self.announcement(pool, &resolved.fleet)
        } else if was_ready {
            // A process that starts proves everything before clients are sent to it.
            ready(pool)
        } else {
            self.proved(pool, &resolved.fleet)
        };

        if !moves || matches!(verdict, Verdict::Ready { .. }) {
            let binding = Binding { name: desired::secret_name(pool), version: version_of(&secret) };
            self.pooled.apply(pool, secret).await?;
            status.binding = Some(binding);
        }
        conditions::settle(&mut status.conditions, pool.metadata.generation, verdict);
        Ok(Progress::new(status))
    }

    async fn cleanup(&self, pool: &ConnectionPool) -> Result<(), Error> {
        self.clean_up(pool).await
    }
}

impl PoolController {
    /// What is said together with a new route; agents have not seen it yet.
    fn announcement(&self, pool: &ConnectionPool, fleet: &PgBouncer) -> Verdict {
        if self.shared.serving(fleet).is_empty() { no_processes(pool) } else { routing(pool) }
    }

    /// What the agents say of the route in the status. Nothing is said of how far they are: each step would be a write.
    fn proved(&self, pool: &ConnectionPool, fleet: &PgBouncer) -> Verdict {
        match self.proof(pool, fleet) {
            Proof::Proved => ready(pool),
            Proof::Refused { reason } => {
                Verdict::stalled("Refused", format!("the fleet does not load this route: {reason}"))
            }
            Proof::Pending { error: Some(error), .. } => Verdict::progressing("Routing", error),
            Proof::Pending { error: None, .. } => routing(pool),
            Proof::NoProcesses => no_processes(pool),
        }
    }

    fn proof(&self, pool: &ConnectionPool, fleet: &PgBouncer) -> Proof {
        let processes = fleet.status.as_ref().map(|status| status.processes.as_slice()).unwrap_or_default();
        proof(&key(pool), version(pool), processes, &self.shared.serving(fleet))
    }
}

fn ready(pool: &ConnectionPool) -> Verdict {
    Verdict::ready(match pool.spec.state {
        PoolState::Active => "every process of the fleet serves it",
        PoolState::Paused => "every process of the fleet makes its clients wait",
        PoolState::Disabled => "every process of the fleet refuses new clients",
    })
}

fn routing(pool: &ConnectionPool) -> Verdict {
    Verdict::progressing(
        "Routing",
        format!("waiting for every process of the PgBouncer {} to load the route", fleet_name(pool)),
    )
}

fn no_processes(pool: &ConnectionPool) -> Verdict {
    Verdict::progressing(
        "NoProcesses",
        format!("waiting for the PgBouncer {} to have a process that serves", fleet_name(pool)),
    )
}

fn fleet_name(pool: &ConnectionPool) -> String {
    format!("{}/{}", pool.spec.pg_bouncer_ref.namespace, pool.spec.pg_bouncer_ref.name)
}
