//! The fleet that a pool comes from. It serves the pool's clients until the other fleet does, the Secret leads there, and
//! applications have had the time to read that; then transactions end, as those of a pool that is being deleted. How far
//! that is stands in the status: a controller that starts goes on where another one was.

use std::mem::take;
use std::time::Duration;

use ahoi_api::{ConnectionPool, ConnectionPoolStatus, FormerPlace, FormerState, Place};
use ahoi_pgbouncer::pool::Proof;
use ahoi_reconcile::{EventType, age};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use tracing::warn;

use super::PoolController;
use super::cleanup::PATIENCE;

/// How long clients are served where they were, from when the Secret leads elsewhere: workers are rolled meanwhile, and
/// mounted Secrets are read again.
const GRACE: Duration = Duration::from_secs(300);

/// Remembers the place that a pool with a route goes away from. One to which it comes back is left no more.
pub fn leave(status: &mut ConnectionPoolStatus, from: Place, to: &Place, now: Timestamp) {
    if status.route.is_some() && from != *to {
        status.former_places.push(FormerPlace { place: from, state: FormerState::Serving, since: seconds(now) });
    }
    status.former_places.retain(|former| former.place != *to);
}

impl PoolController {
    /// Goes on with leaving the former places; the answer is when to look again. `arrived`: the Secret leads to the place.
    pub(super) fn go_on_leaving(
        &self,
        pool: &ConnectionPool,
        status: &mut ConnectionPoolStatus,
        arrived: bool,
        now: Timestamp,
    ) -> Option<Duration> {
        for former in take(&mut status.former_places) {
            let proof = self.proof_at(pool, &former.place);
            let next = next(&former, arrived, proof.as_ref(), now);
            if next.is_none() && matches!(proof, Some(Proof::Pending { .. })) {
                warn!(
                    fleet = former.place.fleet.name,
                    "the agents have not proved that nobody is left; leaving it to them"
                );
                let fleet = format!("{}/{}", former.place.fleet.namespace, former.place.fleet.name);
                let note =
                    format!("not every process of the PgBouncer {fleet} has proved that it has no clients any more");
                self.platform.event(pool, EventType::Warning, "RemovedWithoutProof", note);
            }
            status.former_places.extend(next);
        }
        status.former_places.iter().filter_map(|former| due(former, now)).min()
    }
}

/// What becomes of a former place; nothing if it is given up. `proof` is what its agents say, if there is such a fleet.
fn next(former: &FormerPlace, arrived: bool, proof: Option<&Proof>, now: Timestamp) -> Option<FormerPlace> {
    let age = age(&former.since, now);
    let state = match (former.state, proof) {
        // A fleet that is gone serves nobody.
        (_, None) => return None,
        (FormerState::Serving, _) if arrived => FormerState::Left,
        (FormerState::Left, _) if age >= GRACE => FormerState::Draining,
        (FormerState::Draining, Some(Proof::Pending { .. })) if age < PATIENCE => FormerState::Draining,
        (FormerState::Draining, _) => return None,
        (state, _) => state,
    };
    let since = if state == former.state { former.since.clone() } else { seconds(now) };
    Some(FormerPlace { place: former.place.clone(), state, since })
}

/// When time alone brings the next state.
fn due(former: &FormerPlace, now: Timestamp) -> Option<Duration> {
    let lasts = match former.state {
        FormerState::Serving => return None,
        FormerState::Left => GRACE,
        FormerState::Draining => PATIENCE,
    };
    Some(lasts.saturating_sub(age(&former.since, now)))
}

/// The time as it comes back from the API server.
fn seconds(now: Timestamp) -> Time {
    Time(Timestamp::from_second(now.as_second()).unwrap_or(now))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ahoi_api::{NamespacedRef, Route};

    fn place(fleet: &str) -> Place {
        Place { fleet: NamespacedRef { namespace: "ahoi-system".into(), name: fleet.into() }, shard: 0 }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn former(state: FormerState) -> FormerPlace {
        FormerPlace { place: place("old"), state, since: Time(at(1000)) }
    }

    /// State and since when, some seconds later.
    fn later(state: FormerState, arrived: bool, proof: Option<&Proof>, seconds: i64) -> Option<(FormerState, i64)> {
        let next = next(&former(state), arrived, proof, at(1000 + seconds))?;
        Some((next.state, next.since.0.as_second()))
    }

    const PENDING: Proof = Proof::Pending { proved: 0, of: 1, error: None };

    #[test]
    fn it_serves_until_the_secret_leads_elsewhere_and_drains_some_minutes_later() {
        use FormerState::{Draining, Left, Serving};
        for proof in [Proof::Proved, PENDING, Proof::NoProcesses] {
            let later = |state, arrived, seconds| later(state, arrived, Some(&proof), seconds);
            assert_eq!(later(Serving, false, 1_000_000), Some((Serving, 1000)), "for ever, if nobody serves elsewhere");
            assert_eq!(later(Serving, true, 7), Some((Left, 1007)));
            assert_eq!(later(Left, true, 299), Some((Left, 1000)));
            assert_eq!(later(Left, false, -5), Some((Left, 1000)), "clocks differ");
            assert_eq!(later(Left, true, 300), Some((Draining, 1300)));
        }
    }

    #[test]
    fn it_is_given_up_when_nobody_is_left_there() {
        let draining = |proof: &Proof, seconds| later(FormerState::Draining, true, Some(proof), seconds);
        assert_eq!(draining(&PENDING, 59), Some((FormerState::Draining, 1000)));
        assert_eq!(draining(&PENDING, 60), None, "nobody waits for a dead pod for ever");
        for proof in [Proof::Proved, Proof::NoProcesses, Proof::Refused { reason: "no".into() }] {
            assert_eq!(draining(&proof, 1), None, "{proof:?}");
        }
        for state in [FormerState::Serving, FormerState::Left, FormerState::Draining] {
            assert_eq!(later(state, false, None, 0), None, "a fleet that is gone");
        }
    }

    #[test]
    fn time_alone_ends_all_but_the_first_state() {
        let due = |state, second| due(&former(state), at(second)).map(|due| due.as_secs());
        assert_eq!(due(FormerState::Serving, 1010), None);
        assert_eq!(due(FormerState::Left, 1010), Some(290));
        assert_eq!(due(FormerState::Draining, 1010), Some(50));
        assert_eq!(due(FormerState::Draining, 1900), Some(0));
    }

    #[test]
    fn every_place_is_left_once_and_not_the_one_it_comes_back_to() {
        let mut status = ConnectionPoolStatus::default();
        let left = |status: &ConnectionPoolStatus| -> Vec<String> {
            status.former_places.iter().map(|former| former.place.fleet.name.clone()).collect()
        };
        leave(&mut status, place("a"), &place("b"), at(1));
        assert!(left(&status).is_empty(), "nobody was served there");
        status.route = Some(Route::default());
        leave(&mut status, place("a"), &place("a"), at(1));
        assert!(left(&status).is_empty(), "it stays");
        leave(&mut status, place("a"), &place("b"), at(1));
        leave(&mut status, place("b"), &place("b"), at(2));
        assert_eq!(left(&status), ["a"]);
        leave(&mut status, place("b"), &place("c"), at(3));
        assert_eq!(left(&status), ["a", "b"], "the Secret may lead to any of them");
        leave(&mut status, place("c"), &place("a"), at(4));
        assert_eq!(left(&status), ["b", "c"]);
    }
}
