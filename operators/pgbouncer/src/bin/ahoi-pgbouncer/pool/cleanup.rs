//! The end of a pool: its clients finish, then its route goes, then the object does. Each step is written into the status
//! and proved by the agents.

use std::time::Duration;

use ahoi_api::{ConnectionPool, ConnectionPoolStatus, PoolState};
use ahoi_pgbouncer::pool::{Proof, former_places, place};
use ahoi_reconcile::{Error, EventType, Verdict, age, conditions};
use k8s_openapi::jiff::Timestamp;
use tracing::warn;

use super::PoolController;

/// How long a pool waits for agents that do not answer.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// What is to be done next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Nobody new may begin anything.
    Disable,
    /// Nobody does any more: the route may go.
    Remove,
    /// It has gone everywhere.
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

/// What several shards prove together: all wait for one that is not done, and one without processes has nothing to say.
fn together(proofs: impl Iterator<Item = Proof>) -> Proof {
    let rank = |proof: &Proof| match proof {
        Proof::Pending { .. } => 0,
        Proof::Proved | Proof::Refused { .. } => 1,
        Proof::NoProcesses => 2,
    };
    proofs.min_by_key(rank).unwrap_or(Proof::NoProcesses)
}

impl PoolController {
    pub(super) async fn clean_up(&self, pool: &ConnectionPool) -> Result<(), Error> {
        let mut places = vec![place(pool)];
        places.extend(former_places(pool).iter().map(|former| former.place.clone()));
        // A fleet that is gone serves nobody.
        let proof = together(places.iter().filter_map(|place| self.proof_at(pool, place)));
        let step = step(pool.status.as_ref(), &proof);
        if step == Step::Done {
            return Ok(());
        }
        // Every step is told to the agents at least once, however long this controller was away.
        if step == Step::Wait && is_overdue(pool) {
            warn!("the agents have not proved that the route is gone; leaving it to them");
            let note = "not every process has proved that the route is gone; it goes when that process is back";
            self.platform.event(pool, EventType::Warning, "RemovedWithoutProof", note);
            return Ok(());
        }
        let mut status = pool.status.clone().unwrap_or_default();
        match (step, &mut status.route) {
            (Step::Disable, Some(route)) => route.state = PoolState::Disabled,
            (Step::Remove, route) => *route = None,
            _ => {}
        }
        let (reason, message) = match status.route {
            Some(_) => ("Draining", "waiting for transactions to end before the route is removed"),
            None => ("Unrouting", "waiting for every process to remove the route"),
        };
        if step != Step::Wait {
            conditions::set_verdict(
                &mut status.conditions,
                pool.metadata.generation,
                Verdict::progressing(reason, message),
            );
            status.observed_generation = pool.metadata.generation;
            self.platform.write_status(&self.shared.pools, pool, &status).await?;
        }
        Err(Error::waiting(reason, message))
    }
}

fn is_overdue(pool: &ConnectionPool) -> bool {
    pool.metadata.deletion_timestamp.as_ref().is_some_and(|since| age(since, Timestamp::now()) > PATIENCE)
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
        assert_eq!(step(None, &pending), Step::Wait, "nobody knows what was loaded before");
    }

    #[test]
    fn what_was_never_served_is_gone() {
        assert_eq!(step(Some(&status(Some(PoolState::Active))), &Proof::NoProcesses), Step::Done);
        let refused = Proof::Refused { reason: "no".into() };
        assert_eq!(step(Some(&status(Some(PoolState::Disabled))), &refused), Step::Remove);
    }

    #[test]
    fn a_pool_that_moves_goes_when_it_has_gone_from_all_its_places() {
        let pending = || Proof::Pending { proved: 1, of: 2, error: None };
        let together = |proofs: &[Proof]| together(proofs.iter().cloned());
        assert_eq!(together(&[Proof::Proved, pending()]), pending());
        assert_eq!(together(&[Proof::NoProcesses, pending()]), pending());
        assert_eq!(together(&[Proof::NoProcesses, Proof::Proved]), Proof::Proved);
        assert_eq!(together(&[]), Proof::NoProcesses, "no fleet is left");
    }
}
