//! How often a status may be written.
//!
//! Workers become available one by one, and a cron job is due, runs and ends. Each such step is a change of the status, and
//! each write of it wakes the Customer's controller, too. Told at once are therefore only changes of substance: a new
//! generation, or a condition of another status or reason. A change of mere detail (a count, a message, a time) is told when
//! it is [`HOLD`] old, together with whatever has changed since. So the status is never wrong about ready or not, at most
//! [`HOLD`] behind in detail, and a rollout of many workers costs a write every [`HOLD`] and not one for each of them.
//!
//! Since when a change is held back is remembered here and nowhere else: a restart forgets it, and tells late by as much.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use ahoi_api::{JobStatus, Scheduler, SchedulerStatus};
use ahoi_reconcile::Progress;

/// How long a change of mere detail is held back.
pub const HOLD: Duration = Duration::from_secs(2);
/// After this long nobody comes back for a change that was held back: its Scheduler was deleted.
const FORGET: Duration = Duration::from_secs(600);

/// Who has a change held back, by uid, and since when.
#[derive(Debug, Default)]
pub struct Pace(Mutex<HashMap<String, Instant>>);

impl Pace {
    /// The status to write now, and when to look again.
    pub fn keep(&self, scheduler: &Scheduler, status: SchedulerStatus, now: Instant) -> Progress<SchedulerStatus> {
        let uid = scheduler.metadata.uid.clone().unwrap_or_default();
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        held.retain(|_, since| now.duration_since(*since) < FORGET);
        let told = scheduler.status.as_ref().filter(|told| differ_in_detail(told, &status));
        let Some(told) = told else {
            held.remove(&uid);
            return Progress::new(status);
        };
        let waited = now.duration_since(*held.entry(uid.clone()).or_insert(now));
        if waited < HOLD {
            return Progress::new(told.clone()).requeue_in(HOLD - waited);
        }
        held.remove(&uid);
        Progress::new(status)
    }
}

fn differ_in_detail(told: &SchedulerStatus, status: &SchedulerStatus) -> bool {
    substance(told) == substance(status) && details(told) != details(status)
}

/// What is told at once. The order of conditions is not ours.
fn substance(status: &SchedulerStatus) -> (Option<i64>, BTreeSet<(&str, &str, &str)>) {
    let conditions = status.conditions.iter();
    (status.observed_generation, conditions.map(|c| (c.type_.as_str(), c.status.as_str(), c.reason.as_str())).collect())
}

/// What may be told later.
fn details(status: &SchedulerStatus) -> (Option<&str>, &[JobStatus], BTreeSet<(&str, &str)>) {
    let conditions = status.conditions.iter();
    (status.workers.as_deref(), &status.jobs, conditions.map(|c| (c.type_.as_str(), c.message.as_str())).collect())
}
