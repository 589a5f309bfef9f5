//! Delays: after an error, and until the periodic reconcile; and the number of failures in a row of each object.

use std::collections::HashMap;
use std::time::Duration;

use parking_lot::Mutex;
use rand::Rng;

use crate::error::Class;

/// The delay until the reconcile after an error. `failures`: how many of the same class came directly before it.
pub fn after_error(class: Class, failures: u32) -> Duration {
    match class {
        Class::Transient => jitter(growing(Duration::from_secs(1), failures, Duration::from_secs(300))),
        // A watch usually triggers it earlier; this is for what no watch reports.
        Class::Waiting => jitter(Duration::from_secs(30)),
        Class::Conflict => {
            let first = Duration::from_millis(rand::rng().random_range(50..=250));
            growing(first, failures, Duration::from_secs(10))
        }
        Class::Structural => jitter(Duration::from_secs(300)),
        Class::Terminal => jitter(Duration::from_secs(1800)),
    }
}

/// The delay until the periodic reconcile: 40 to 60 minutes. It finds deletions that a disconnected watch missed. The spread
/// prevents a wave of reconciles every hour after a restart.
pub fn resync() -> Duration {
    Duration::from_secs(rand::rng().random_range(40 * 60..=60 * 60))
}

fn growing(first: Duration, failures: u32, cap: Duration) -> Duration {
    first.saturating_mul(1 << failures.min(16)).min(cap)
}

/// ± 20 %.
fn jitter(duration: Duration) -> Duration {
    duration.mul_f64(rand::rng().random_range(0.8..=1.2))
}

/// Failures in a row, by uid: a recreated object starts with none.
#[derive(Default)]
pub(crate) struct Failures(Mutex<HashMap<String, (Class, u32)>>);

impl Failures {
    /// Counts a failure, and returns how many of this class came directly before it.
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

    /// The object was reconciled or deleted.
    pub(crate) fn forget(&self, uid: &str) {
        self.0.lock().remove(uid);
    }
}
