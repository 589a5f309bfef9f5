//! Which objects wait for a reconcile, and which is next. Pure: the caller passes the time.
//!
//! Three guarantees, which kube's `Controller` does not give ([`why_not_kube_controller`](crate::why_not_kube_controller)):
//!
//! - An object has one entry, however often it is triggered, and is never reconciled twice at once. A trigger during its
//!   reconcile adds an entry for afterwards.
//! - No object starves: of all that are due, the one that has waited longest is next.
//! - Changes overtake routine reconciles, but not forever.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::time::Duration;

use tokio::time::Instant;

use crate::cache::Key;

/// Merges the events of a fan-out into one reconcile, without a noticeable delay.
const DEBOUNCE: Duration = Duration::from_millis(50);
/// How long events may overtake a routine reconcile.
const ROUTINE_HANDICAP: Duration = Duration::from_secs(10);

/// When an object is reconciled.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    /// Not before.
    due: Instant,
    /// Of all that are due, the one with the earliest is next.
    rank: Instant,
}

impl Entry {
    /// A client changed the spec, and may wait for the result.
    pub(crate) fn change(now: Instant) -> Self {
        Entry { due: now, rank: now }
    }

    /// A child or a dependency of the object changed; or the object is new, and the watches may not have delivered its
    /// dependencies yet.
    pub(crate) fn event(now: Instant) -> Self {
        let due = now + DEBOUNCE;
        Entry { due, rank: due }
    }

    /// No event: after a start, for a retry, for the periodic reconcile.
    pub(crate) fn routine(due: Instant) -> Self {
        Entry { due, rank: due + ROUTINE_HANDICAP }
    }

    fn or_earlier(self, other: Entry) -> Self {
        Entry { due: self.due.min(other.due), rank: self.rank.min(other.rank) }
    }
}

/// See the [module](self).
#[derive(Default)]
pub(crate) struct Workqueue {
    /// The entry of each object that waits.
    entries: HashMap<Key, Entry>,
    /// Those that are not due yet, by when they are.
    later: BTreeSet<(Instant, Key)>,
    /// Those that are due, by rank.
    due: BTreeSet<(Instant, Key)>,
    /// Those being reconciled. If they have an entry, it is in neither of the two.
    running: HashSet<Key>,
}

impl Workqueue {
    /// How many are due and wait for a slot.
    pub(crate) fn len(&self) -> usize {
        self.due.len()
    }

    /// Adds an entry for the object, or makes its entry earlier.
    pub(crate) fn add(&mut self, key: Key, entry: Entry) {
        let entry = self.withdraw(&key).map_or(entry, |before| before.or_earlier(entry));
        if !self.running.contains(&key) {
            self.later.insert((entry.due, key.clone()));
        }
        self.entries.insert(key, entry);
    }

    /// The object was deleted.
    pub(crate) fn forget(&mut self, key: &Key) {
        self.withdraw(key);
    }

    /// Takes the next object that is due. The caller must call [`done`](Self::done) afterwards.
    pub(crate) fn take(&mut self, now: Instant) -> Option<Key> {
        while self.later.first().is_some_and(|(due, _)| *due <= now) {
            let (_, key) = self.later.pop_first()?;
            self.due.insert((self.entries.get(&key)?.rank, key));
        }
        let (_, key) = self.due.pop_first()?;
        self.entries.remove(&key);
        self.running.insert(key.clone());
        Some(key)
    }

    /// When the next entry is due that is not yet.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.later.first().map(|(due, _)| *due)
    }

    /// The reconcile of the object has ended.
    pub(crate) fn done(&mut self, key: Key, again: Option<Entry>) {
        self.running.remove(&key);
        let triggered = self.entries.remove(&key);
        for entry in [triggered, again].into_iter().flatten() {
            self.add(key.clone(), entry);
        }
    }

    fn withdraw(&mut self, key: &Key) -> Option<Entry> {
        let entry = self.entries.remove(key)?;
        // It is in one of them, or in none while the object is being reconciled.
        self.later.remove(&(entry.due, key.clone()));
        self.due.remove(&(entry.rank, key.clone()));
        Some(entry)
    }
}
