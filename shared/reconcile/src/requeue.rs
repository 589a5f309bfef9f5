//! When to try again: one table for every controller, and the memory of who failed how often.

use std::collections::HashMap;
use std::time::Duration;

use parking_lot::Mutex;
use rand::Rng;

use crate::error::Class;

/// How long after an error the object is looked at again. `attempt` counts failures of the same class in a row, from 0.
pub fn after_error(class: Class, attempt: u32) -> Duration {
    match class {
        Class::Transient => jitter(growing(Duration::from_secs(1), attempt, Duration::from_secs(300))),
        // Watches wake earlier; this is for what no watch can see.
        Class::Waiting => jitter(Duration::from_secs(30)),
        Class::Conflict => {
            let first = Duration::from_millis(rand::rng().random_range(50..=250));
            growing(first, attempt, Duration::from_secs(10))
        }
        Class::Structural => jitter(Duration::from_secs(300)),
        Class::Terminal => jitter(Duration::from_secs(1800)),
    }
}

/// The periodic look at an object that is as it should be. Deletes missed while disconnected send
/// no event, so something has to look; spread out, so that a restart does not make a wave every hour.
pub fn resync() -> Duration {
    Duration::from_secs(rand::rng().random_range(40 * 60..=60 * 60))
}

fn growing(first: Duration, attempt: u32, cap: Duration) -> Duration {
    first.saturating_mul(1 << attempt.min(16)).min(cap)
}

/// ± 20 %.
fn jitter(duration: Duration) -> Duration {
    duration.mul_f64(rand::rng().random_range(0.8..=1.2))
}

/// Failures in a row, by uid: a name that is deleted and created again starts afresh.
#[derive(Default)]
pub(crate) struct Failures(Mutex<HashMap<String, (Class, u32)>>);

impl Failures {
    /// Counts one more and returns how many of this class came directly before it.
    pub(crate) fn count(&self, uid: &str, class: Class) -> u32 {
        let mut failures = self.0.lock();
        let entry = failures.entry(uid.to_owned()).or_insert((class, 0));
        if entry.0 != class {
            *entry = (class, 0);
        }
        let before = entry.1;
        entry.1 = entry.1.saturating_add(1);
        before
    }

    /// The object succeeded or is gone.
    pub(crate) fn forget(&self, uid: &str) {
        self.0.lock().remove(uid);
    }
}
