//! The fleets that a pool leaves. A former fleet serves the pool's clients until the new one does, the Secret points there,
//! and applications have had the time to read it. Then it waits for transactions to end, as for a deleted pool. The status
//! records the progress, so that a restarted controller continues.

use std::mem::take;
use std::time::Duration;

use ahoi_api::{ConnectionPoolStatus, EventReason, FormerPlace, FormerState, Place};
use ahoi_pgbouncer::pool::Proof;
use ahoi_reconcile::{EventType, Platform, age};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use tracing::warn;

use super::cleanup::PROOF_TIMEOUT;
use super::reports::{Reports, proof_at};

/// Time for which the former fleet serves clients after the Secret points elsewhere: workers restart, and mounted Secrets are
/// read again.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(300);

/// Records the place that a pool with a route leaves. If the pool comes back to a place, it no longer leaves it.
pub fn leave(status: &mut ConnectionPoolStatus, from: Place, to: &Place, now: Timestamp) {
    if status.route.is_some() && from != *to {
        status.former_places.push(FormerPlace { place: from, state: FormerState::Serving, since: seconds(now) });
    }
    status.former_places.retain(|former| former.place != *to);
}

/// Advances the former places and returns when to look at them again. `has_moved`: the Secret points to the new place.
pub fn continue_leaving(
    platform: &Platform,
    reports: &Reports,
    status: &mut ConnectionPoolStatus,
    has_moved: bool,
    now: Timestamp,
) -> Option<Duration> {
    for former in take(&mut status.former_places) {
        let proof = proof_at(reports.shared, reports.pool, &former.place);
        let next = next(&former, has_moved, proof.as_ref(), now);
        if next.is_none() && matches!(proof, Some(Proof::Pending { .. })) {
            let fleet = format!("{}/{}", former.place.fleet.namespace, former.place.fleet.name);
            warn!(fleet, "not every process has proved that it has no clients of the pool; no longer waiting for it");
            let note =
                format!("not every process of the PgBouncer {fleet} has proved that it has no clients of the pool");
            platform.event(reports.pool, EventType::Warning, EventReason::RemovedWithoutProof, note);
        }
        status.former_places.extend(next);
    }
    status.former_places.iter().filter_map(|former| due(former, now)).min()
}

/// The next state of a former place; none once the pool has left it. `proof` is what its agents report, if the fleet exists.
fn next(former: &FormerPlace, has_moved: bool, proof: Option<&Proof>, now: Timestamp) -> Option<FormerPlace> {
    let age = age(&former.since, now);
    let state = match (former.state, proof) {
        // A fleet that was deleted has no clients.
        (_, None) => return None,
        (FormerState::Serving, _) if has_moved => FormerState::Left,
        (FormerState::Left, _) if age >= LEAVE_TIMEOUT => FormerState::Draining,
        (FormerState::Draining, Some(Proof::Pending { .. })) if age < PROOF_TIMEOUT => FormerState::Draining,
        (FormerState::Draining, _) => return None,
        (state, _) => state,
    };
    let since = if state == former.state { former.since.clone() } else { seconds(now) };
    Some(FormerPlace { place: former.place.clone(), state, since })
}

/// Time until the next state, if it comes with time alone.
fn due(former: &FormerPlace, now: Timestamp) -> Option<Duration> {
    let lasts = match former.state {
        FormerState::Serving => return None,
        FormerState::Left => LEAVE_TIMEOUT,
        FormerState::Draining => PROOF_TIMEOUT,
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
    fn later(state: FormerState, has_moved: bool, proof: Option<&Proof>, seconds: i64) -> Option<(FormerState, i64)> {
        let next = next(&former(state), has_moved, proof, at(1000 + seconds))?;
        Some((next.state, next.since.0.as_second()))
    }

    const PENDING: Proof = Proof::Pending { proved: 0, of: 1, error: None };

    #[test]
    fn a_former_fleet_serves_until_the_secret_points_elsewhere_and_drains_minutes_later() {
        use FormerState::{Draining, Left, Serving};
        for proof in [Proof::Proved, PENDING, Proof::NoProcesses] {
            let later = |state, has_moved, seconds| later(state, has_moved, Some(&proof), seconds);
            assert_eq!(
                later(Serving, false, 1_000_000),
                Some((Serving, 1000)),
                "for ever, if the new fleet does not serve"
            );
            assert_eq!(later(Serving, true, 7), Some((Left, 1007)));
            assert_eq!(later(Left, true, 299), Some((Left, 1000)));
            assert_eq!(later(Left, false, -5), Some((Left, 1000)), "clocks differ");
            assert_eq!(later(Left, true, 300), Some((Draining, 1300)));
        }
    }

    #[test]
    fn a_place_is_left_when_it_has_no_clients() {
        let draining = |proof: &Proof, seconds| later(FormerState::Draining, true, Some(proof), seconds);
        assert_eq!(draining(&PENDING, 59), Some((FormerState::Draining, 1000)));
        assert_eq!(draining(&PENDING, 60), None, "a dead pod blocks nothing for ever");
        for proof in [Proof::Proved, Proof::NoProcesses, Proof::Refused { reason: "no".into() }] {
            assert_eq!(draining(&proof, 1), None, "{proof:?}");
        }
        for state in [FormerState::Serving, FormerState::Left, FormerState::Draining] {
            assert_eq!(later(state, false, None, 0), None, "the fleet was deleted");
        }
    }

    #[test]
    fn every_state_but_the_first_ends_with_time() {
        let due = |state, second| due(&former(state), at(second)).map(|due| due.as_secs());
        assert_eq!(due(FormerState::Serving, 1010), None);
        assert_eq!(due(FormerState::Left, 1010), Some(290));
        assert_eq!(due(FormerState::Draining, 1010), Some(50));
        assert_eq!(due(FormerState::Draining, 1900), Some(0));
    }

    #[test]
    fn a_pool_leaves_each_place_once_and_not_the_one_it_returns_to() {
        let mut status = ConnectionPoolStatus::default();
        let left = |status: &ConnectionPoolStatus| -> Vec<String> {
            status.former_places.iter().map(|former| former.place.fleet.name.clone()).collect()
        };
        leave(&mut status, place("a"), &place("b"), at(1));
        assert!(left(&status).is_empty(), "it had no route there");
        status.route = Some(Route::default());
        leave(&mut status, place("a"), &place("a"), at(1));
        assert!(left(&status).is_empty(), "it stays");
        leave(&mut status, place("a"), &place("b"), at(1));
        leave(&mut status, place("b"), &place("b"), at(2));
        assert_eq!(left(&status), ["a"]);
        leave(&mut status, place("b"), &place("c"), at(3));
        assert_eq!(left(&status), ["a", "b"], "the Secret may point to any of them");
        leave(&mut status, place("c"), &place("a"), at(4));
        assert_eq!(left(&status), ["b", "c"]);
    }
}
