//! The deletion of a pool: its clients finish, its route is removed, and then the object. Each step is written into the status
//! and proved by the agents.

use std::time::Duration;

use ahoi_api::{ConnectionPool, ConnectionPoolStatus, EventReason, PoolState, Reason};
use ahoi_pgbouncer::pool::{Proof, former_places, place};
use ahoi_reconcile::{Error, EventType, Platform, Verdict, age, conditions};
use k8s_openapi::jiff::Timestamp;
use tracing::warn;

use super::reports::proof_at;
use crate::shared::Shared;

/// Time for which a pool waits for agents that do not answer.
pub const PROOF_TIMEOUT: Duration = Duration::from_secs(60);

/// The next step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Clients must not begin new transactions.
    Disable,
    /// All transactions have ended: the route can be removed.
    Remove,
    /// Every process has removed it.
    Done,
    /// The agents have not proved the last step.
    Wait,
}

fn step(status: Option<&ConnectionPoolStatus>, proof: &Proof) -> Step {
    let state = status.and_then(|status| status.route.as_ref()).map(|route| route.state);
    match (state, proof) {
        (_, Proof::NoProcesses) | (None, Proof::Proved | Proof::Refused { .. }) => Step::Done,
        (Some(PoolState::Disabled), Proof::Proved | Proof::Refused { .. }) => Step::Remove,
        (Some(PoolState::Disabled) | None, Proof::Pending { .. }) => Step::Wait,
        (Some(_), _) => Step::Disable,
    }
}

/// What several shards prove together: one that is not done counts first, one without processes last.
fn together(proofs: impl Iterator<Item = Proof>) -> Proof {
    let rank = |proof: &Proof| match proof {
        Proof::Pending { .. } => 0,
        Proof::Proved | Proof::Refused { .. } => 1,
        Proof::NoProcesses => 2,
    };
    proofs.min_by_key(rank).unwrap_or(Proof::NoProcesses)
}

/// Takes the next step of the end of a pool. Done when no process has its route any more.
pub async fn cleanup(platform: &Platform, shared: &Shared, pool: &ConnectionPool) -> Result<(), Error> {
    let mut places = vec![place(pool)];
    places.extend(former_places(pool).iter().map(|former| former.place.clone()));
    let proof = together(places.iter().filter_map(|place| proof_at(shared, pool, place)));
    let step = step(pool.status.as_ref(), &proof);
    if step == Step::Done {
        return Ok(());
    }
    // The agents read every step at least once, however long this controller did not run.
    if step == Step::Wait && is_overdue(pool) {
        warn!("not every process has proved that it removed the route; no longer waiting for it");
        let note = "not every process has proved that it removed the route. A process that restarts removes it";
        platform.event(pool, EventType::Warning, EventReason::RemovedWithoutProof, note);
        return Ok(());
    }
    let mut status = pool.status.clone().unwrap_or_default();
    match (step, &mut status.route) {
        (Step::Disable, Some(route)) => route.state = PoolState::Disabled,
        (Step::Remove, route) => *route = None,
        _ => {}
    }
    let (reason, message) = match status.route {
        Some(_) => (Reason::Draining, "waiting for transactions to end before the route is removed"),
        None => (Reason::Unrouting, "waiting for every process to remove the route"),
    };
    if step != Step::Wait {
        conditions::set_verdict(
            &mut status.conditions,
            pool.metadata.generation,
            Verdict::progressing(reason, message),
        );
        status.observed_generation = pool.metadata.generation;
        platform.write_status(&shared.pools, pool, &status).await?;
    }
    Err(Error::waiting(reason, message))
}

fn is_overdue(pool: &ConnectionPool) -> bool {
    pool.metadata.deletion_timestamp.as_ref().is_some_and(|since| age(since, Timestamp::now()) > PROOF_TIMEOUT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ahoi_api::Route;

    fn status(state: Option<PoolState>) -> ConnectionPoolStatus {
        let route = state.map(|state| Route { state, ..Route::default() });
        ConnectionPoolStatus { route, ..ConnectionPoolStatus::default() }
    }

    #[test]
    fn disabled_then_removed_then_done_and_each_proved() {
        let pending = Proof::Pending { proved: 1, of: 2, error: None };
        let active = status(Some(PoolState::Active));
        let disabled = status(Some(PoolState::Disabled));
        let removed = status(None);
        assert_eq!(step(Some(&active), &Proof::Proved), Step::Disable);
        assert_eq!(step(Some(&active), &pending), Step::Disable);
        assert_eq!(step(Some(&disabled), &pending), Step::Wait);
        assert_eq!(step(Some(&disabled), &Proof::Proved), Step::Remove);
        assert_eq!(step(Some(&removed), &pending), Step::Wait);
        assert_eq!(step(Some(&removed), &Proof::Proved), Step::Done);
        assert_eq!(step(None, &pending), Step::Wait, "an agent may have loaded a route before");
    }

    #[test]
    fn a_route_that_no_process_serves_is_removed() {
        assert_eq!(step(Some(&status(Some(PoolState::Active))), &Proof::NoProcesses), Step::Done);
        let refused = Proof::Refused { reason: "no".into() };
        assert_eq!(step(Some(&status(Some(PoolState::Disabled))), &refused), Step::Remove);
    }

    #[test]
    fn a_pool_that_moves_is_removed_from_all_its_places() {
        let pending = || Proof::Pending { proved: 1, of: 2, error: None };
        let together = |proofs: &[Proof]| together(proofs.iter().cloned());
        assert_eq!(together(&[Proof::Proved, pending()]), pending());
        assert_eq!(together(&[Proof::NoProcesses, pending()]), pending());
        assert_eq!(together(&[Proof::NoProcesses, Proof::Proved]), Proof::Proved);
        assert_eq!(together(&[]), Proof::NoProcesses, "all fleets were deleted");
    }
}
