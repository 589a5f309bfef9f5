//! The objects of a controller that are not ready, and since when. Metrics count them and name none.

use std::collections::HashMap;

use ahoi_api::Conditioned;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use parking_lot::Mutex;

use crate::age::age;
use crate::cache::Key;
use crate::conditions::{self, READY, STALLED};

/// The objects whose last status has Ready=False. Objects that are Ready, which are nearly all, take no memory here.
#[derive(Default)]
pub(crate) struct Unready(Mutex<HashMap<Key, State>>);

struct State {
    since: Time,
    is_stalled: bool,
}

/// The values of their metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) stalled: i64,
    pub(crate) reconciling: i64,
    /// Seconds since the first of them became not ready.
    pub(crate) longest: i64,
}

impl Unready {
    /// Records the status of the object.
    pub(crate) fn observe<K: Conditioned>(&self, object: &K) {
        let conditions = object.status().map(K::conditions).unwrap_or_default();
        let (key, ready) = (Key::of(object), conditions::find(conditions, READY));
        let mut states = self.0.lock();
        match ready.filter(|ready| ready.status == "False") {
            Some(ready) => {
                let is_stalled = conditions::is_true(conditions, STALLED);
                states.insert(key, State { since: ready.last_transition_time.clone(), is_stalled });
            }
            None => drop(states.remove(&key)),
        }
    }

    /// The object does not exist any more.
    pub(crate) fn forget(&self, key: &Key) {
        self.0.lock().remove(key);
    }

    /// Counts those for which `is_ours` returns true.
    pub(crate) fn count(&self, is_ours: impl Fn(&Key) -> bool, now: Timestamp) -> Counts {
        let mut counts = Counts::default();
        for (_, state) in self.0.lock().iter().filter(|(key, _)| is_ours(key)) {
            if state.is_stalled {
                counts.stalled += 1;
            } else {
                counts.reconciling += 1;
            }
            counts.longest = counts.longest.max(i64::try_from(age(&state.since, now).as_secs()).unwrap_or(i64::MAX));
        }
        counts
    }
}
