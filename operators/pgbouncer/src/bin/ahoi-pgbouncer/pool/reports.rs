//! What the agents report about a pool, and what follows for its conditions.

use ahoi_api::{ConnectionPool, PgBouncer, Place, PoolState, Reason};
use ahoi_pgbouncer::fleet::reports;
use ahoi_pgbouncer::pool::{Proof, key, proof, refusal, unused, version};
use ahoi_reconcile::Verdict;

use crate::shared::Shared;

/// The reports of the fleet of one pool.
pub struct Reports<'a> {
    pub shared: &'a Shared,
    pub pool: &'a ConnectionPool,
    pub fleet: &'a PgBouncer,
    pub place: &'a Place,
}

impl Reports<'_> {
    /// The verdict on a new route, which the agents have not read yet.
    pub fn announcement(&self) -> Verdict {
        let is_served = !self.shared.serving(self.fleet, self.place.shard).is_empty();
        if is_served { routing(self.pool, self.place) } else { no_processes(self.pool, self.place) }
    }

    /// The verdict on the route in the status. It does not count processes: each step would be a write.
    pub fn verdict(&self) -> Verdict {
        match proof_of(self.shared, self.pool, self.fleet, self.place) {
            Proof::Proved => ready(self.pool, self.place),
            Proof::Refused { reason } => refused(&reason),
            Proof::Pending { error: Some(error), .. } => Verdict::progressing(Reason::Routing, error),
            Proof::Pending { error: None, .. } => routing(self.pool, self.place),
            Proof::NoProcesses => no_processes(self.pool, self.place),
        }
    }

    /// Why one of the serving processes refuses the route.
    pub fn refusal(&self) -> Option<String> {
        let serving = self.shared.serving(self.fleet, self.place.shard);
        refusal(&key(self.pool), reports(self.fleet), &serving).map(ToOwned::to_owned)
    }

    /// Whether no process of the fleet at `place` uses the login. `known`: this has been concluded before.
    pub fn is_unused_at(&self, place: &Place, login: &str, known: bool) -> bool {
        match self.shared.fleet(&place.fleet) {
            Ok(Some(fleet)) => {
                let serving = self.shared.serving(&fleet, place.shard);
                unused(login, known, version(self.pool), reports(&fleet), &serving)
            }
            // A fleet that was deleted has no clients.
            Ok(None) => true,
            Err(_) => false,
        }
    }
}

/// What the processes of any shard have proved about the pool; nothing if its fleet was deleted.
pub fn proof_at(shared: &Shared, pool: &ConnectionPool, place: &Place) -> Option<Proof> {
    match shared.fleet(&place.fleet) {
        Ok(fleet) => Some(proof_of(shared, pool, &*fleet?, place)),
        // Its processes may serve the pool.
        Err(error) => Some(Proof::Pending { proved: 0, of: 0, error: Some(error.to_string()) }),
    }
}

fn proof_of(shared: &Shared, pool: &ConnectionPool, fleet: &PgBouncer, place: &Place) -> Proof {
    proof(&key(pool), version(pool), reports(fleet), &shared.serving(fleet, place.shard))
}

/// The verdict on a route that a process refuses.
pub fn refused(reason: &str) -> Verdict {
    Verdict::stalled(Reason::RouteRefused, format!("the PgBouncer fleet refuses this route: {reason}"))
}

/// The verdict on a route that every process has loaded.
pub fn ready(pool: &ConnectionPool, place: &Place) -> Verdict {
    let whole = if place.shard == 0 { "the PgBouncer fleet" } else { "its shard" };
    let what = match pool.spec.state {
        PoolState::Active => "serves the pool",
        PoolState::Paused => "lets the pool's clients wait (spec.state is Paused)",
        PoolState::Disabled => "refuses new clients of the pool (spec.state is Disabled)",
    };
    Verdict::ready(format!("every process of {whole} {what}"))
}

fn routing(pool: &ConnectionPool, place: &Place) -> Verdict {
    let whole = shard_name(pool, place);
    Verdict::progressing(Reason::Routing, format!("waiting for every process of {whole} to load the route"))
}

fn no_processes(pool: &ConnectionPool, place: &Place) -> Verdict {
    let whole = shard_name(pool, place);
    Verdict::progressing(Reason::NoProcesses, format!("waiting for a ready process of {whole}"))
}

fn shard_name(pool: &ConnectionPool, place: &Place) -> String {
    let fleet = &pool.spec.pg_bouncer_ref;
    match place.shard {
        0 => format!("the PgBouncer {}/{}", fleet.namespace, fleet.name),
        shard => format!("shard {shard} of the PgBouncer {}/{}", fleet.namespace, fleet.name),
    }
}
