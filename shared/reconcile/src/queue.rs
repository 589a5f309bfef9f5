//! What wakes a controller's objects, and which of it is news.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ahoi_api::Object;
use kube::Resource;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use crate::cache::{Cache, Change, Key};
use crate::desired::{APPLIED_HASH, APPLIED_KEYS};
use crate::partitions::{Partitions, Permit, partition_of};
use crate::requeue::Failures;
use crate::workqueue::{Turn, Workqueue};

/// The objects of a controller that are to be looked at.
pub(crate) struct Queue {
    waiting: Mutex<Workqueue>,
    woken: Notify,
    /// Before the start nobody is woken: everybody will be.
    started: AtomicBool,
    /// Of each object that there is, a hash of what may wake it.
    seen: Mutex<HashMap<Key, u64>>,
    pub(crate) failures: Failures,
    partitions: Partitions,
}

impl Queue {
    pub(crate) fn new(partitions: &Partitions) -> Self {
        Queue {
            waiting: Mutex::default(),
            woken: Notify::new(),
            started: AtomicBool::new(false),
            seen: Mutex::default(),
            failures: Failures::default(),
            partitions: partitions.clone(),
        }
    }

    /// How many are due and find no slot.
    pub(crate) fn len(&self) -> usize {
        self.waiting.lock().len()
    }

    /// The partition that an object is on: its namespace's, which is its customer's. Without a namespace its name's.
    fn partition_of(&self, key: &Key) -> u32 {
        partition_of(if key.namespace.is_empty() { &key.name } else { &key.namespace }, self.partitions.count())
    }

    /// Whether the object is on a partition of this replica's.
    pub(crate) fn is_ours(&self, key: &Key) -> bool {
        self.partitions.has(self.partition_of(key))
    }

    /// A permit for a pass over the object, if it is ours to look at.
    pub(crate) fn enter(&self, key: &Key) -> Option<Permit> {
        self.partitions.enter(self.partition_of(key))
    }

    /// A partition has become ours: what woke its objects before was for somebody else, and what failed, failed somebody else.
    pub(crate) fn gained<K: Object>(&self, partition: u32, cache: &Cache<K>) {
        let ours = |object: &K| {
            let key = Key::of(object);
            (self.partition_of(&key) == partition).then(|| (key, object.meta().uid.clone().unwrap_or_default()))
        };
        for (key, uid) in cache.select(ours) {
            self.failures.forget(&uid);
            self.give(key, Turn::routine(Instant::now()));
        }
    }

    /// Has the object looked at soon: there is news for it.
    pub(crate) fn wake(&self, key: Key) {
        self.give(key, Turn::news(Instant::now()));
    }

    /// Gives the object a turn, if it is ours. If it is not, it will have one when it becomes ours.
    fn give(&self, key: Key, turn: Turn) {
        if self.started.load(Ordering::SeqCst) && self.partitions.has(self.partition_of(&key)) {
            self.waiting.lock().wake(key, turn);
            self.woken.notify_one();
        }
    }

    /// Whose turn it is, once it is somebody's. Whatever happens from then on gives the object another.
    pub(crate) async fn next(&self) -> Key {
        loop {
            let due = {
                let mut waiting = self.waiting.lock();
                if let Some(key) = waiting.take(Instant::now()) {
                    return key;
                }
                waiting.next_due()
            };
            match due {
                Some(due) => tokio::select! { () = sleep_until(due) => {} () = self.woken.notified() => {} },
                None => self.woken.notified().await,
            }
        }
    }

    /// The pass over an object is over.
    pub(crate) fn done(&self, key: Key, again: Option<Duration>) {
        let known = self.seen.lock().contains_key(&key);
        let again = again.filter(|_| known).map(|delay| Turn::routine(Instant::now() + delay));
        self.waiting.lock().done(key, again);
    }

    /// A change of an object of the controller's own kind.
    pub(crate) fn primary<K: Object>(&self, change: &Change<K>) {
        let key = Key::of(&*change.object);
        if change.gone {
            self.seen.lock().remove(&key);
            self.failures.forget(change.object.meta().uid.as_deref().unwrap_or_default());
            self.waiting.lock().forget(&key);
        } else {
            match self.see(&*change.object) {
                Sight::Same => {}
                Sight::New => self.wake(key),
                Sight::Changed => self.give(key, Turn::change(Instant::now())),
            }
        }
    }

    /// Whether anything has changed but the status; remembers what it has seen.
    pub(crate) fn see<K: Object>(&self, object: &K) -> Sight {
        let hash = waking_hash(object);
        match self.seen.lock().insert(Key::of(object), hash) {
            None => Sight::New,
            Some(before) if before == hash => Sight::Same,
            Some(_) => Sight::Changed,
        }
    }

    /// Has everybody looked at.
    pub(crate) fn start<K: Object>(&self, cache: &Cache<K>) {
        self.started.store(true, Ordering::SeqCst);
        let seen = |object: &K| {
            self.see(object);
            Some(Key::of(object))
        };
        for key in cache.select(seen) {
            self.give(key, Turn::routine(Instant::now()));
        }
    }
}

/// What an object of the controller's own kind is to who has seen it before, or has not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sight {
    New,
    Changed,
    /// Its status may be another.
    Same,
}

/// Everything but the status, as far as it can be told without looking into the object. Our own notes do not count.
fn waking_hash<K: Resource>(object: &K) -> u64 {
    let meta = object.meta();
    let mut hasher = DefaultHasher::new();
    meta.uid.hash(&mut hasher);
    meta.deletion_timestamp.is_some().hash(&mut hasher);
    meta.finalizers.hash(&mut hasher);
    meta.labels.hash(&mut hasher);
    for (key, value) in meta.annotations.iter().flatten() {
        if key != APPLIED_HASH && key != APPLIED_KEYS {
            (key, value).hash(&mut hasher);
        }
    }
    match meta.generation {
        Some(generation) => generation.hash(&mut hasher),
        // Secrets and ConfigMaps count no generations.
        None => meta.resource_version.hash(&mut hasher),
    }
    hasher.finish()
}
