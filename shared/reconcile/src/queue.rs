//! The objects of a controller that wait for a reconcile, and what triggers one.

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
use crate::workqueue::{Entry, Workqueue};

/// The objects of a controller that wait for a reconcile.
pub(crate) struct Queue {
    waiting: Mutex<Workqueue>,
    triggered: Notify,
    /// Before the start nothing is triggered; the start triggers every object.
    started: AtomicBool,
    /// For each object, a hash of what triggers a reconcile.
    seen: Mutex<HashMap<Key, u64>>,
    pub(crate) failures: Failures,
    partitions: Partitions,
}

impl Queue {
    pub(crate) fn new(partitions: &Partitions) -> Self {
        Queue {
            waiting: Mutex::default(),
            triggered: Notify::new(),
            started: AtomicBool::new(false),
            seen: Mutex::default(),
            failures: Failures::default(),
            partitions: partitions.clone(),
        }
    }

    /// How many are due and wait for a slot.
    pub(crate) fn len(&self) -> usize {
        self.waiting.lock().len()
    }

    /// The partition of an object: that of its namespace, and so of its customer; without a namespace that of its name.
    fn partition_of(&self, key: &Key) -> u32 {
        partition_of(if key.namespace.is_empty() { &key.name } else { &key.namespace }, self.partitions.count())
    }

    /// Whether the object is in a partition that this replica holds.
    pub(crate) fn is_ours(&self, key: &Key) -> bool {
        self.partitions.has(self.partition_of(key))
    }

    /// A permit to reconcile the object, if it is in this replica's partitions.
    pub(crate) fn enter(&self, key: &Key) -> Option<Permit> {
        self.partitions.enter(self.partition_of(key))
    }

    /// This replica took a partition. Triggers all its objects, and forgets failures: triggers before were for the former holder.
    pub(crate) fn gained<K: Object>(&self, partition: u32, cache: &Cache<K>) {
        let ours = |object: &K| {
            let key = Key::of(object);
            (self.partition_of(&key) == partition).then(|| (key, object.meta().uid.clone().unwrap_or_default()))
        };
        for (key, uid) in cache.select(ours) {
            self.failures.forget(&uid);
            self.add(key, Entry::routine(Instant::now()));
        }
    }

    /// Triggers a reconcile of the object.
    pub(crate) fn trigger(&self, key: Key) {
        self.add(key, Entry::event(Instant::now()));
    }

    /// Adds the object if it is in this replica's partitions. Otherwise it is added when the replica takes its partition.
    fn add(&self, key: Key, entry: Entry) {
        if self.started.load(Ordering::SeqCst) && self.partitions.has(self.partition_of(&key)) {
            self.waiting.lock().add(key, entry);
            self.triggered.notify_one();
        }
    }

    /// The next object that is due. Events from then on trigger another reconcile.
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
                Some(due) => tokio::select! { () = sleep_until(due) => {} () = self.triggered.notified() => {} },
                None => self.triggered.notified().await,
            }
        }
    }

    /// The reconcile of the object has ended.
    pub(crate) fn done(&self, key: Key, again: Option<Duration>) {
        let known = self.seen.lock().contains_key(&key);
        let again = again.filter(|_| known).map(|delay| Entry::routine(Instant::now() + delay));
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
            match self.observe(&*change.object) {
                Difference::Same => {}
                Difference::New => self.trigger(key),
                Difference::Changed => self.add(key, Entry::change(Instant::now())),
            }
        }
    }

    /// Whether anything but the status has changed since the last call.
    pub(crate) fn observe<K: Object>(&self, object: &K) -> Difference {
        let hash = trigger_hash(object);
        match self.seen.lock().insert(Key::of(object), hash) {
            None => Difference::New,
            Some(before) if before == hash => Difference::Same,
            Some(_) => Difference::Changed,
        }
    }

    /// Triggers every object.
    pub(crate) fn start<K: Object>(&self, cache: &Cache<K>) {
        self.started.store(true, Ordering::SeqCst);
        let seen = |object: &K| {
            self.observe(object);
            Some(Key::of(object))
        };
        for key in cache.select(seen) {
            self.add(key, Entry::routine(Instant::now()));
        }
    }
}

/// How an object of the controller's own kind differs from when it was last observed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Difference {
    New,
    Changed,
    /// Except for its status, perhaps.
    Same,
}

/// A hash of everything but the status and our own annotations, as far as the metadata shows it.
fn trigger_hash<K: Resource>(object: &K) -> u64 {
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
