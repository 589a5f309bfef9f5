//! Who is waiting for a pass.

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};

use kube::Resource;
use kube::api::PartialObjectMeta;
use kube::core::PartialObjectMetaExt;
use kube::runtime::reflector::{self, ObjectRef};
use kube::runtime::watcher::Event;
use parking_lot::Mutex;
use tokio::sync::mpsc;

use crate::cache::{Cache, Change, Key};
use crate::desired::{APPLIED_HASH, APPLIED_KEYS};
use crate::reconciler::Object;
use crate::requeue::Failures;
use crate::shards::{Permit, Shards, shard_of};

/// kube's Controller looks its objects up in a Store of its own. Ours come from the [`Cache`], which knows our own
/// writes, so that Store gets nothing but names.
pub(crate) type Stub<K> = PartialObjectMeta<K>;

/// Who has been woken and not looked at yet.
///
/// kube's scheduler starts its debounce anew with each event, so that an object that is woken often enough
/// is never looked at. Passing on only the first waking makes it "at most 50 ms after the first".
pub(crate) struct Queue<K: Object> {
    wakings: mpsc::UnboundedSender<ObjectRef<Stub<K>>>,
    waiting: Mutex<HashSet<Key>>,
    /// Of each object, a hash of what may wake it.
    seen: Mutex<HashMap<Key, u64>>,
    names: Mutex<reflector::store::Writer<Stub<K>>>,
    pub(crate) failures: Failures,
    shards: Shards,
}

impl<K: Object> Queue<K> {
    /// The queue, and the end of it that kube's scheduler takes from.
    pub(crate) fn new(shards: &Shards) -> (Self, mpsc::UnboundedReceiver<ObjectRef<Stub<K>>>) {
        let (wakings, woken) = mpsc::unbounded_channel();
        let queue = Queue {
            wakings,
            waiting: Mutex::default(),
            seen: Mutex::default(),
            names: Mutex::new(reflector::store::Writer::default()),
            failures: Failures::default(),
            shards: shards.clone(),
        };
        (queue, woken)
    }

    pub(crate) fn len(&self) -> usize {
        self.waiting.lock().len()
    }

    /// The shard that an object is on: its namespace's, which is its customer's. Without a namespace its name's.
    fn shard_of(&self, key: &Key) -> u32 {
        shard_of(if key.namespace.is_empty() { &key.name } else { &key.namespace }, self.shards.count())
    }

    /// A permit for a pass over the object, if it is ours to look at.
    pub(crate) fn enter(&self, key: &Key) -> Option<Permit> {
        self.shards.enter(self.shard_of(key))
    }

    /// A shard has become ours: what woke its objects before was for somebody else, and what failed, failed somebody else.
    pub(crate) fn gained(&self, shard: u32, cache: &Cache<K>) {
        for object in cache.all() {
            let key = Key::of(&*object);
            if self.shard_of(&key) == shard {
                self.failures.forget(object.meta().uid.as_deref().unwrap_or_default());
                self.wake(key);
            }
        }
    }

    /// Has the object looked at, if it is ours. If it is not, it will be when it becomes ours.
    pub(crate) fn wake(&self, key: Key) {
        if !self.shards.has(self.shard_of(&key)) {
            return;
        }
        if self.waiting.lock().insert(key.clone()) {
            let object = ObjectRef::new(&key.name);
            let in_namespace = !key.namespace.is_empty();
            let object = if in_namespace { object.within(&key.namespace) } else { object };
            // Nobody listens once the controller has stopped.
            let _ = self.wakings.send(object);
        }
    }

    /// Its turn has come: whatever happens from now on wakes it again.
    pub(crate) fn taken(&self, key: &Key) {
        self.waiting.lock().remove(key);
    }

    /// Its turn has come, and it was not there. Should it have come since, its own waking was swallowed by this one.
    pub(crate) fn missed(&self, key: &Key, cache: &Cache<K>) {
        self.taken(key);
        if cache.lookup(key).is_some() {
            self.wake(key.clone());
        }
    }

    /// A change of an object of the controller's own kind.
    pub(crate) fn primary(&self, change: &Change<K>) {
        let key = Key::of(&*change.object);
        let stub = stub(&*change.object);
        if change.gone {
            self.seen.lock().remove(&key);
            self.failures.forget(change.object.meta().uid.as_deref().unwrap_or_default());
            self.names.lock().apply_watcher_event(&Event::Delete(stub));
        } else {
            self.names.lock().apply_watcher_event(&Event::Apply(stub));
            if self.is_news(&*change.object) {
                self.wake(key);
            }
        }
    }

    /// Whether anything has changed but the status; remembers what it has seen.
    pub(crate) fn is_news(&self, object: &K) -> bool {
        let hash = waking_hash(object);
        self.seen.lock().insert(Key::of(object), hash) != Some(hash)
    }

    /// Wakes everybody, and opens the Store that kube's Controller waits for.
    pub(crate) fn start(&self, cache: &Cache<K>) -> reflector::Store<Stub<K>> {
        let mut names = self.names.lock();
        names.apply_watcher_event(&Event::Init);
        for object in cache.all() {
            names.apply_watcher_event(&Event::InitApply(stub(&*object)));
            self.is_news(&object);
            self.wake(Key::of(&*object));
        }
        names.apply_watcher_event(&Event::InitDone);
        names.as_reader()
    }
}

fn stub<K: Resource<DynamicType = ()>>(object: &K) -> Stub<K> {
    let meta = object.meta();
    let names = kube::core::ObjectMeta {
        name: meta.name.clone(),
        namespace: meta.namespace.clone(),
        uid: meta.uid.clone(),
        ..Default::default()
    };
    names.into_response_partial()
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
