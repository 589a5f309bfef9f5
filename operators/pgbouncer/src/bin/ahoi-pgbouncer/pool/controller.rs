//! The reconcile of a ConnectionPool: dereference → validate → desired → observe → apply → status.

use std::sync::Arc;
use std::time::Duration;

use ahoi_api::{
    BINDING_LABEL, Binding, ConnectionPool, ConnectionPoolStatus, PgBouncer, Place, Reason, Route, finalizers,
};
use ahoi_pgbouncer::pool as agents;
use ahoi_reconcile::conditions::{self, READY, STALLED};
use ahoi_reconcile::{Controller, Error, Owned, Platform, Progress, Reconciler, Runnable, Verdict, watcher};
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::jiff::Timestamp;

use super::cleanup::cleanup;
use super::credentials::{self, record_repair, retire, try_login};
use super::dereference::{Inputs, Sources};
use super::desired::{self, Desired};
use super::former;
use super::reports::{Reports, ready, refused};
use super::triggers::Triggers;
use super::validate::validate;
use crate::shared::Shared;

/// Suffix of the name of a Database's Secret.
const DIRECT_SUFFIX: &str = "-database";
/// Secrets of pools are smaller than this, the certificates of the fleet included.
const BINDING_BYTES: usize = 512 * 1024;
/// Time until a Secret that could not be written is tried again: what blocks it may be an object that is not watched.
const SECRET_RETRY: Duration = Duration::from_secs(30);

/// The controller of ConnectionPools.
pub struct PoolController {
    pub(super) platform: Platform,
    pub(super) sources: Sources,
    /// The pools' binding Secrets.
    pub(super) pooled: Owned<Secret>,
}

/// What exists, as far as the caches and the agents' reports show.
struct Observed {
    /// The pool's Secret.
    secret: Option<Arc<Secret>>,
    /// The pool's Secret points to another shard than the desired one.
    moves: bool,
    /// The status already shows the agents the desired route.
    is_announced: bool,
    /// What the agents report about the route.
    verdict: Verdict,
}

/// What came of publishing the desired Secret.
struct Applied {
    /// The Secret that applications read now.
    secret: Option<Arc<Secret>>,
    /// Whether that Secret points to the desired shard.
    has_moved: bool,
    /// Set if the desired Secret is published.
    binding: Option<Binding>,
    /// Whether new credentials work through every process.
    trial: Result<(), String>,
    /// Why the Secret could not be written.
    error: Option<Error>,
}

impl PoolController {
    /// Starts the caches and returns the controller, to be run.
    pub fn start(platform: &Platform, shared: &Shared) -> Runnable {
        let labelled = |kind: &str| watcher::Config::default().labels(&format!("{BINDING_LABEL}={kind}"));
        let databases = platform.watch_all();
        let direct = platform.cache_secrets(labelled("direct"), &databases, DIRECT_SUFFIX, keep_login);
        let pooled = platform.cache_secrets(labelled("pooled"), &shared.pools, desired::SECRET_SUFFIX, drop_oversized);
        let controller = PoolController {
            platform: platform.clone(),
            sources: Sources { shared: shared.clone(), databases, direct },
            pooled: Owned::new(platform, &pooled).recreated_if(desired::must_be_recreated).recreated_if_refused(),
        };
        let triggers = Triggers::new(&shared.pools);
        Controller::new(platform, &shared.pools)
            .owns(&controller.pooled)
            .watches(&shared.pools, triggers.index())
            .watches(&shared.pools, triggers.of_leaving())
            .watches(&controller.sources.databases, triggers.of_database())
            .watches(&controller.sources.direct, triggers.of_secret())
            .watches(&shared.servers, triggers.of_server())
            .watches(&shared.fleets, triggers.of_fleet())
            .watches(&shared.secrets, triggers.of_certificates(&shared.fleets))
            .run(controller)
    }
}

impl Reconciler for PoolController {
    type Kind = ConnectionPool;
    const NAME: &'static str = "connectionpool";
    const FINALIZER: Option<&'static str> = Some(finalizers::CONNECTION_POOL);

    async fn reconcile(&self, pool: &ConnectionPool) -> Result<Progress<ConnectionPoolStatus>, Error> {
        let inputs = self.sources.dereference(pool)?;
        validate(&inputs)?;
        let desired = desired::desired(pool, &inputs, self.place(pool, &inputs.fleet)?);
        let observed = self.observe(pool, &inputs, &desired);
        let applied = self.apply(pool, &inputs, &desired, &observed).await;
        Ok(self.status(pool, &inputs, desired, observed, applied))
    }

    async fn cleanup(&self, pool: &ConnectionPool) -> Result<(), Error> {
        cleanup(&self.platform, &self.sources.shared, pool).await
    }
}

impl PoolController {
    /// The shard that serves the pool, now and from now on.
    fn place(&self, pool: &ConnectionPool, fleet: &PgBouncer) -> Result<Place, Error> {
        let Shared { placements, pools, .. } = &self.sources.shared;
        placements.place(pool, fleet, || pools.all(), |shard| !self.sources.shared.serving(fleet, shard).is_empty())
    }

    fn observe(&self, pool: &ConnectionPool, inputs: &Inputs, desired: &Desired) -> Observed {
        let status = pool.status.as_ref();
        let namespace = desired.secret.metadata.namespace.as_deref().unwrap_or_default();
        let secret = self.pooled.cache().get_in(namespace, &desired::secret_name(pool));
        let moves = secret.as_ref().is_some_and(|present| !desired::same_host(present, &desired.secret));
        let condition = |type_| conditions::find(status.map(|status| &*status.conditions).unwrap_or_default(), type_);
        let was_ready = status.is_some_and(|status| conditions::is_true(&status.conditions, READY));
        let was_refused = condition(STALLED).is_some_and(|stalled| stalled.reason == Reason::RouteRefused);
        // The retiring login is no part of what the agents have to prove.
        let known = status.and_then(|status| status.route.clone()).map(|known| Route { retiring: None, ..known });
        let is_placed = agents::place(pool) == desired.place;
        let is_announced = known.as_ref() == Some(&desired.route) && is_placed && !(was_ready && moves);
        let reports = Reports { shared: &self.sources.shared, pool, fleet: &inputs.fleet, place: &desired.place };
        let verdict = if is_announced {
            // A route that was proved or refused before is judged by the last report, whatever version that was about.
            match reports.refusal().filter(|_| was_ready || was_refused) {
                Some(reason) => refused(&reason),
                // A process that starts proves everything before it gets clients.
                None if was_ready => ready(pool, &desired.place),
                None => reports.verdict(),
            }
        } else {
            reports.announcement()
        };
        Observed { secret, moves, is_announced, verdict }
    }

    /// Publishes the desired Secret, once its login works and the shard it points to serves the route.
    async fn apply(&self, pool: &ConnectionPool, inputs: &Inputs, desired: &Desired, observed: &Observed) -> Applied {
        let trial = match &observed.secret {
            Some(present) if !desired::same_login(present, &desired.secret) => {
                let addresses = self.sources.shared.addresses(&inputs.fleet, desired.place.shard);
                try_login(pool, inputs, addresses, &desired.secret).await
            }
            _ => Ok(()),
        };
        let (secret, has_moved) = (observed.secret.clone(), !observed.moves);
        let mut applied = Applied { secret, has_moved, binding: None, trial, error: None };
        let is_served = !observed.moves || matches!(observed.verdict, Verdict::Ready { .. });
        if applied.trial.is_err() || !is_served {
            return applied;
        }
        record_repair(&self.platform, pool, observed.secret.as_deref(), &desired.secret);
        match self.pooled.apply(pool, desired.secret.clone()).await {
            Ok(written) => {
                let version = desired::version_of(&desired.secret);
                applied.secret = Some(written);
                applied.has_moved = true;
                applied.binding = Some(Binding { name: desired::secret_name(pool), version });
            }
            // The route may change all the same: tenants can block their Secret, and nothing else.
            Err(error) => applied.error = Some(error),
        }
        applied
    }

    fn status(
        &self,
        pool: &ConnectionPool,
        inputs: &Inputs,
        desired: Desired,
        observed: Observed,
        applied: Applied,
    ) -> Progress<ConnectionPoolStatus> {
        let now = Timestamp::now();
        let Desired { place, route, .. } = desired;
        let reports = Reports { shared: &self.sources.shared, pool, fleet: &inputs.fleet, place: &place };
        let mut status = pool.status.clone().unwrap_or_default();
        former::leave(&mut status, agents::place(pool), &place, now);
        // Without it the pool would count as served wherever its spec points to.
        status.place = Some(place.clone());
        if !observed.is_announced {
            status.route = Some(route);
        }
        if let Some(binding) = applied.binding {
            status.binding = Some(binding);
        }
        let leaving = former::continue_leaving(&self.platform, &reports, &mut status, applied.has_moved, now);
        retire(&reports, inputs.previous_login.as_ref(), applied.secret.as_deref(), &mut status);
        let retry = credentials::set_condition(&mut status.conditions, pool.metadata.generation, applied.trial);
        let blocked = applied.error.as_ref().map(|_| SECRET_RETRY);
        let verdict = applied.error.as_ref().map_or(observed.verdict, Verdict::from);
        conditions::set_verdict(&mut status.conditions, pool.metadata.generation, verdict);
        Progress { requeue: [leaving, retry, blocked].into_iter().flatten().min(), ..Progress::new(status) }
    }
}

/// Only the login is read from a Database's Secret.
fn keep_login(secret: &mut Secret) {
    let data = secret.data.iter_mut();
    data.for_each(|data| data.retain(|key, value| ["username", "password"].contains(&&**key) && value.0.len() < 1024));
}

/// Tenants may change the Secret. Without data it counts as lost, and is written again.
fn drop_oversized(secret: &mut Secret) {
    let bytes: usize = secret.data.iter().flatten().map(|(_, value)| value.0.len()).sum();
    if bytes > BINDING_BYTES {
        secret.data = None;
    }
}
