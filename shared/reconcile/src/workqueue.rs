//! Who is waiting for a pass, and who is next. Pure: the clock is the caller's.
//!
//! Three promises, which kube's Controller does not make (it takes whichever of its waiting objects its hash set
//! names first, and starts its debounce anew with each event):
//!
//! - An object has one turn, however often it is woken, and never two passes at once. What wakes it during a pass
//!   gives it another turn afterwards.
//! - Nobody starves: of all that are due, the one that has waited longest is next.
//! - What has changed overtakes what is looked at by routine, though not for ever.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::time::Duration;

use tokio::time::Instant;

use crate::cache::Key;

/// Long enough to make one pass of the events of a fan-out, too short for anybody to notice.
const DEBOUNCE: Duration = Duration::from_millis(50);
/// How long a routine look lets news overtake it.
const PATIENCE: Duration = Duration::from_secs(10);

/// When an object is looked at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Turn {
    /// Not before.
    due: Instant,
    /// Of all that are due, the one with the earliest is next.
    rank: Instant,
}

impl Turn {
    /// Somebody has changed what is wanted of the object, and may be waiting.
    pub(crate) fn change(now: Instant) -> Self {
        Turn { due: now, rank: now }
    }

    /// Something has happened to what belongs to the object, or to what it depends on; or it is new, and what it depends on may
    /// be as new and on its way to us.
    pub(crate) fn news(now: Instant) -> Self {
        let due = now + DEBOUNCE;
        Turn { due, rank: due }
    }

    /// Nothing has happened, it is just time: after a start, for another try, for the periodic look.
    pub(crate) fn routine(due: Instant) -> Self {
        Turn { due, rank: due + PATIENCE }
    }

    fn or_earlier(self, other: Turn) -> Self {
        Turn { due: self.due.min(other.due), rank: self.rank.min(other.rank) }
    }
}

/// See the [module](self).
#[derive(Default)]
pub(crate) struct Workqueue {
    /// The one turn of each object that has one.
    turns: HashMap<Key, Turn>,
    /// Of those, the ones that nothing but time keeps, by when they are due.
    later: BTreeSet<(Instant, Key)>,
    /// And the ones that are due, by rank.
    ripe: BTreeSet<(Instant, Key)>,
    /// Being looked at; a turn of theirs is in neither of the two.
    running: HashSet<Key>,
}

impl Workqueue {
    /// How many were due and had to wait when the last was taken.
    pub(crate) fn len(&self) -> usize {
        self.ripe.len()
    }

    /// Gives the object a turn, or an earlier one.
    pub(crate) fn wake(&mut self, key: Key, turn: Turn) {
        let turn = self.withdraw(&key).map_or(turn, |before| before.or_earlier(turn));
        if !self.running.contains(&key) {
            self.later.insert((turn.due, key.clone()));
        }
        self.turns.insert(key, turn);
    }

    /// The object is no more.
    pub(crate) fn forget(&mut self, key: &Key) {
        self.withdraw(key);
    }

    /// Whose turn it is. [`done`](Self::done) is to follow.
    pub(crate) fn take(&mut self, now: Instant) -> Option<Key> {
        while self.later.first().is_some_and(|(due, _)| *due <= now) {
            let (_, key) = self.later.pop_first()?;
            self.ripe.insert((self.turns.get(&key)?.rank, key));
        }
        let (_, key) = self.ripe.pop_first()?;
        self.turns.remove(&key);
        self.running.insert(key.clone());
        Some(key)
    }

    /// When to ask again if nobody was there to take.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.later.first().map(|(due, _)| *due)
    }

    /// The pass over the object is over.
    pub(crate) fn done(&mut self, key: Key, again: Option<Turn>) {
        self.running.remove(&key);
        let woken = self.turns.remove(&key);
        for turn in [woken, again].into_iter().flatten() {
            self.wake(key.clone(), turn);
        }
    }

    fn withdraw(&mut self, key: &Key) -> Option<Turn> {
        let turn = self.turns.remove(key)?;
        // Only one of them has it, and neither if it is running.
        self.later.remove(&(turn.due, key.clone()));
        self.ripe.remove(&(turn.rank, key.clone()));
        Some(turn)
    }
}
