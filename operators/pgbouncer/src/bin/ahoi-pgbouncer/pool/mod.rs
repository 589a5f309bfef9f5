//! ConnectionPool: where it leads, its Secret, and whether every process of the fleet has proved it.

mod cleanup;
mod credentials;
mod desired;
mod former;
mod resolve;
#[cfg(test)]
mod tests;
mod tls;
mod wake;

use std::time::Duration;

use ahoi_api::{
    BINDING_LABEL, Binding, ConnectionPool, ConnectionPoolStatus, Database, PgBouncer, Place, PoolState, Route,
    finalizers,
};
use ahoi_pgbouncer::fleet::reports;
use ahoi_pgbouncer::pool::{self as agents, Proof, key, proof, refusal, version};
use ahoi_reconcile::conditions::{self, READY, STALLED};
use ahoi_reconcile::{
    Cache, Controller, Error, Object, Owned, Platform, Progress, Reconciler, Runnable, Verdict, watcher,
};
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::jiff::Timestamp;
use kube::Api;

use crate::shared::Shared;
use desired::{secret, version_of};
use wake::Wake;

/// What the name of a Database's Secret has after the Database's name.
const DIRECT_SUFFIX: &str = "-database";
/// More than a pool's Secret has, its fleet's certificates included.
const BINDING_BYTES: usize = 512 * 1024;
/// How often a Secret is tried again that could not be written: what is in its way may not be ours to watch.
const SECRET_RETRY: Duration = Duration::from_secs(30);

/// The reason of a pool whose route an agent does not load.
const REFUSED: &str = "RouteRefused";

struct PoolController {
    platform: Platform,
    shared: Shared,
    databases: Cache<Database>,
    /// The databases' own binding Secrets.
    direct: Cache<Secret>,
    /// The pools'.
    pooled: Owned<Secret>,
}

/// Starts the caches; what comes back is to be run.
pub fn start(platform: &Platform, shared: &Shared) -> Runnable {
    let labelled = |kind: &str| watcher::Config::default().labels(&format!("{BINDING_LABEL}={kind}"));
    let databases = all(platform);
    let direct = platform.cache_secrets(labelled("direct"), &databases, DIRECT_SUFFIX, keep_login);
    let pooled = platform.cache_secrets(labelled("pooled"), &shared.pools, desired::SECRET_SUFFIX, drop_oversized);
    let controller = PoolController {
        platform: platform.clone(),
        shared: shared.clone(),
        databases,
        direct,
        pooled: Owned::new(platform, &pooled).recreated_if(desired::must_be_made_anew).recreated_if_refused(),
    };
    let wake = Wake::new(&shared.pools);
    Controller::new(platform, &shared.pools)
        .owns(&controller.pooled)
        .watches(&shared.pools, wake.remember())
        .watches(&shared.pools, wake.of_leaving())
        .watches(&controller.databases, wake.of_database())
        .watches(&controller.direct, wake.of_secret())
        .watches(&shared.servers, wake.of_server())
        .watches(&shared.fleets, wake.of_fleet())
        .watches(&shared.secrets, wake.of_certificates(&shared.fleets))
        .run(controller)
}

/// Of a Database's Secret no more is read.
fn keep_login(secret: &mut Secret) {
    let data = secret.data.iter_mut();
    data.for_each(|data| data.retain(|key, value| ["username", "password"].contains(&&**key) && value.0.len() < 1024));
}

/// Tenants may change the Secret. Without data it is taken for lost, and written again.
fn drop_oversized(secret: &mut Secret) {
    let bytes: usize = secret.data.iter().flatten().map(|(_, value)| value.0.len()).sum();
    if bytes > BINDING_BYTES {
        secret.data = None;
    }
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
        let place = self.place(pool, &resolved.fleet)?;
        let route = desired::route(pool, &resolved);
        let secret = tls::secured(secret(pool, &resolved, &place), &resolved);

        let mut status = pool.status.clone().unwrap_or_default();
        let present = self
            .pooled
            .cache()
            .get_in(secret.metadata.namespace.as_deref().unwrap_or_default(), &desired::secret_name(pool));
        // Clients that go to another fleet do so when that one serves them, so the Secret waits for the proof. (Within a
        // fleet nobody moves.)
        let moves = present.as_ref().is_some_and(|present| !desired::same_host(present, &secret));
        let was_ready = conditions::find(&status.conditions, READY).is_some_and(|ready| ready.status == "True");
        let was_refused =
            conditions::find(&status.conditions, STALLED).is_some_and(|stalled| stalled.reason == REFUSED);
        // Which login retires changes nothing of where the route leads.
        let known = status.route.clone().map(|known| Route { retiring: None, ..known });
        let placed = agents::place(pool) == place;
        let announced = known.as_ref() == Some(&route) && placed && !(was_ready && moves);
        let trial = match &present {
            Some(present) if !desired::same_login(present, &secret) => {
                self.try_out(pool, &resolved, &place, &secret).await
            }
            _ => Ok(()),
        };

        let now = Timestamp::now();
        former::leave(&mut status, agents::place(pool), &place, now);
        // Without it a pool would be wherever its spec says, before anybody serves it there.
        status.place = Some(place.clone());
        let verdict = if announced {
            // Of a route that was proved or refused before, what a process says holds whatever version it has seen since.
            let refusal = self.refusal(pool, &resolved.fleet, &place).filter(|_| was_ready || was_refused);
            match refusal {
                Some(reason) => refused(&reason),
                // A process that starts proves everything before clients are sent to it.
                None if was_ready => ready(pool, &place),
                None => self.proved(pool, &resolved.fleet, &place),
            }
        } else {
            status.route = Some(route);
            self.announcement(pool, &resolved.fleet, &place)
        };

        // What a tenant does to its Secret must not keep the route from changing.
        let (mut given, mut blocked) = (present.clone(), None);
        let gives = trial.is_ok() && (!moves || matches!(verdict, Verdict::Ready { .. }));
        if gives {
            self.tell_of_edits(pool, present.as_deref(), &secret);
            let binding = Binding { name: desired::secret_name(pool), version: version_of(&secret) };
            match self.pooled.apply(pool, secret).await {
                Ok(written) => {
                    given = Some(written);
                    status.binding = Some(binding);
                }
                Err(error) => blocked = Some(error),
            }
        }
        let is_given = gives && blocked.is_none();
        let leaving = self.go_on_leaving(pool, &mut status, is_given || !moves, now);
        self.retire(pool, &resolved, &place, &mut status, given.as_deref());
        let failed = credentials::tell(&mut status.conditions, pool.metadata.generation, trial);
        let verdict = blocked.as_ref().map_or(verdict, Verdict::from);
        conditions::set_verdict(&mut status.conditions, pool.metadata.generation, verdict);
        let again = failed.then_some(credentials::RETRY).into_iter().chain(leaving);
        let again = again.chain(blocked.map(|_| SECRET_RETRY)).min();
        Ok(Progress { requeue: again, ..Progress::new(status) })
    }

    async fn cleanup(&self, pool: &ConnectionPool) -> Result<(), Error> {
        self.clean_up(pool).await
    }
}

impl PoolController {
    /// The shard that serves it, now and from now on.
    fn place(&self, pool: &ConnectionPool, fleet: &PgBouncer) -> Result<Place, Error> {
        let Shared { placements, pools, .. } = &self.shared;
        placements.place(pool, fleet, || pools.all(), |shard| !self.shared.serving(fleet, shard).is_empty())
    }

    /// What is said together with a new route; agents have not seen it yet.
    fn announcement(&self, pool: &ConnectionPool, fleet: &PgBouncer, place: &Place) -> Verdict {
        let serving = self.shared.serving(fleet, place.shard);
        if serving.is_empty() { no_processes(pool, place) } else { routing(pool, place) }
    }

    /// What the agents say of the route in the status. Nothing is said of how far they are: each step would be a write.
    fn proved(&self, pool: &ConnectionPool, fleet: &PgBouncer, place: &Place) -> Verdict {
        match self.proof(pool, fleet, place) {
            Proof::Proved => ready(pool, place),
            Proof::Refused { reason } => refused(&reason),
            Proof::Pending { error: Some(error), .. } => Verdict::progressing("Routing", error),
            Proof::Pending { error: None, .. } => routing(pool, place),
            Proof::NoProcesses => no_processes(pool, place),
        }
    }

    fn proof(&self, pool: &ConnectionPool, fleet: &PgBouncer, place: &Place) -> Proof {
        proof(&key(pool), version(pool), reports(fleet), &self.shared.serving(fleet, place.shard))
    }

    /// The same of any place of the pool; nothing if there is no such fleet.
    fn proof_at(&self, pool: &ConnectionPool, place: &Place) -> Option<Proof> {
        let fleet = match self.shared.fleet(&place.fleet) {
            Ok(fleet) => fleet?,
            // Its processes may serve the pool.
            Err(error) => return Some(Proof::Pending { proved: 0, of: 0, error: Some(error.to_string()) }),
        };
        Some(self.proof(pool, &fleet, place))
    }

    /// Why one of the processes that serve refuses the route.
    fn refusal(&self, pool: &ConnectionPool, fleet: &PgBouncer, place: &Place) -> Option<String> {
        refusal(&key(pool), reports(fleet), &self.shared.serving(fleet, place.shard)).map(ToOwned::to_owned)
    }
}

fn refused(reason: &str) -> Verdict {
    Verdict::stalled(REFUSED, format!("the fleet does not load this route: {reason}"))
}

fn ready(pool: &ConnectionPool, place: &Place) -> Verdict {
    let whole = if place.shard == 0 { "the fleet" } else { "its shard" };
    let what = match pool.spec.state {
        PoolState::Active => "serves it",
        PoolState::Paused => "makes its clients wait",
        PoolState::Disabled => "refuses new clients",
    };
    Verdict::ready(format!("every process of {whole} {what}"))
}

fn routing(pool: &ConnectionPool, place: &Place) -> Verdict {
    let whole = shard_name(pool, place);
    Verdict::progressing("Routing", format!("waiting for every process of {whole} to load the route"))
}

fn no_processes(pool: &ConnectionPool, place: &Place) -> Verdict {
    let whole = shard_name(pool, place);
    Verdict::progressing("NoProcesses", format!("waiting for {whole} to have a process that serves"))
}

fn shard_name(pool: &ConnectionPool, place: &Place) -> String {
    let fleet = fleet_name(pool);
    match place.shard {
        0 => format!("the PgBouncer {fleet}"),
        shard => format!("shard {shard} of the PgBouncer {fleet}"),
    }
}

fn fleet_name(pool: &ConnectionPool) -> String {
    format!("{}/{}", pool.spec.pg_bouncer_ref.namespace, pool.spec.pg_bouncer_ref.name)
}
