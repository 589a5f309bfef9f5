//! Limits how often a status is written.
//!
//! What a controller watches changes in steps: workers become available one by one, children report one after the other. Each
//! step would change the status, and each write of it triggers its watchers. So a change of substance is written at once,
//! and a change of detail when it has been withheld for some time, with whatever has changed since. A status is never wrong in
//! substance, and many steps cost few writes.
//!
//! That a new generation is in progress is a detail: clients that compare `observedGeneration` know it. Most objects are
//! ready before it is due, and are written once.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use ahoi_api::Conditioned;
use parking_lot::Mutex;

use crate::conditions;
use crate::reconciler::Progress;

/// A change withheld for this long is of an object that was deleted.
const MAX_AGE: Duration = Duration::from_secs(600);

/// Withholds changes of detail. It keeps in memory since when; a restart starts again.
pub struct StatusThrottle {
    hold: Duration,
    held: Mutex<HashMap<String, Instant>>,
}

impl StatusThrottle {
    /// Writes changes of detail at most once in `hold`.
    pub fn new(hold: Duration) -> Self {
        Self { hold, held: Mutex::default() }
    }

    /// The status to write `now`, and the delay until the next reconcile. It is the one that the object has while `status` does not
    /// differ from it in what `substance` returns.
    pub fn limit<K: Conditioned, S: PartialEq>(
        &self,
        object: &K,
        mut status: K::Status,
        substance: impl Fn(&K::Status) -> S,
        now: Instant,
    ) -> Progress<K::Status> {
        let uid = object.meta().uid.clone().unwrap_or_default();
        let mut held = self.held.lock();
        held.retain(|_, since| now.duration_since(*since) < MAX_AGE);
        conditions::keep_history(
            object.status().map(K::conditions).unwrap_or_default(),
            K::conditions_mut(&mut status),
        );
        let can_wait = |written: &K::Status| {
            substance(written) == substance(&status)
                || (K::observed_generation(written) != object.meta().generation
                    && conditions::is_underway::<K>(&status))
        };
        let written = object.status().filter(|written| **written != status && can_wait(written));
        let Some(written) = written else {
            held.remove(&uid);
            return Progress::new(status);
        };
        let waited = now.duration_since(*held.entry(uid.clone()).or_insert(now));
        if waited < self.hold {
            return Progress::new(written.clone()).requeue_in(self.hold - waited);
        }
        held.remove(&uid);
        Progress::new(status)
    }
}
