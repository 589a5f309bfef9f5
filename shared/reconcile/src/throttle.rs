//! How often a status may be written.
//!
//! What a controller watches arrives in steps: workers become available one by one, children report one after the
//! other. Each step changes the status, and each write of it wakes whoever watches it. Told at once are therefore only
//! changes of substance; a change of mere detail is told when it is as old as the throttle allows, together with whatever has
//! changed since. So a status is never wrong in substance, in detail it is at most so much behind, and many
//! steps cost few writes.
//!
//! That a new generation is on its way is such a detail: whoever compares `observedGeneration` knows as much. Most
//! objects are ready before it is due, and are written once.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use ahoi_api::Conditioned;
use parking_lot::Mutex;

use crate::conditions;
use crate::reconciler::Progress;

/// After this long nobody comes back for a change that was held back: its object was deleted.
const FORGET: Duration = Duration::from_secs(600);

/// Holds back changes of detail. Since when is remembered here and nowhere else: a restart forgets it, and tells
/// late by as much.
pub struct StatusThrottle {
    hold: Duration,
    held: Mutex<HashMap<String, Instant>>,
}

impl StatusThrottle {
    /// Tells changes of detail at most once in `hold`.
    pub fn new(hold: Duration) -> Self {
        Self { hold, held: Mutex::default() }
    }

    /// The status to write `now`, and when to look again: the one the object has, while `status` differs from it in
    /// nothing that `substance` looks at.
    pub fn limit<K: Conditioned, S: PartialEq>(
        &self,
        object: &K,
        mut status: K::Status,
        substance: impl Fn(&K::Status) -> S,
        now: Instant,
    ) -> Progress<K::Status> {
        let uid = object.meta().uid.clone().unwrap_or_default();
        let mut held = self.held.lock();
        held.retain(|_, since| now.duration_since(*since) < FORGET);
        conditions::keep_history(
            object.status().map(K::conditions).unwrap_or_default(),
            K::conditions_mut(&mut status),
        );
        let bears_waiting = |told: &K::Status| {
            substance(told) == substance(&status)
                || (K::observed_generation(told) != object.meta().generation && conditions::is_underway::<K>(&status))
        };
        let told = object.status().filter(|told| **told != status && bears_waiting(told));
        let Some(told) = told else {
            held.remove(&uid);
            return Progress::new(status);
        };
        let waited = now.duration_since(*held.entry(uid.clone()).or_insert(now));
        if waited < self.hold {
            return Progress::new(told.clone()).requeue_in(self.hold - waited);
        }
        held.remove(&uid);
        Progress::new(status)
    }
}
