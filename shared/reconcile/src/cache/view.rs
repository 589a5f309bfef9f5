//! What a cache believes: the watch's news and our own writes, put in order. Pure, so that every
//! interleaving can be tested.
//!
//! A watch lags behind. A reconciler that reads only what the watch has delivered sees the world
//! before its own last write and writes again: that is where most of the superfluous requests of simple
//! operators come from. So each answer of the API server to a write of ours goes into the view at once and stays
//! until the watch has caught up. Versions decide who is newer; they are comparable numbers within one
//! kind (KEP-5504).

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;

use ahoi_api::Object;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use kube::runtime::watcher::Event;

use super::body::Body;

/// An object's place: namespace (empty for cluster-scoped kinds) and name. Caches and queues have many of the same one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Key {
    pub(crate) namespace: Arc<str>,
    pub(crate) name: Arc<str>,
}

impl Key {
    pub(crate) fn new(namespace: Option<&str>, name: &str) -> Self {
        Key { namespace: namespace.unwrap_or_default().into(), name: name.into() }
    }

    pub(crate) fn of<K: Resource>(object: &K) -> Self {
        Key::of_meta(object.meta())
    }

    pub(crate) fn of_meta(meta: &ObjectMeta) -> Self {
        Key::new(meta.namespace.as_deref(), meta.name.as_deref().unwrap_or_default())
    }
}

/// The hash of a desired state, see [`crate::desired`].
pub(crate) type Hash = String;

/// News for the controllers that listen to a cache.
#[derive(Clone, Debug)]
pub(crate) struct Change<K> {
    pub(crate) object: Arc<K>,
    /// The object is no more.
    pub(crate) gone: bool,
    /// Only what we wrote ourselves and have seen in the answer: no news to whoever wrote it.
    pub(crate) echo: bool,
    /// The object as it was, if its controller owner was another one.
    pub(crate) before: Option<Arc<K>>,
}

pub(crate) struct View<K> {
    /// Whether objects are kept as text, see [`Body`].
    packed: bool,
    slots: HashMap<Key, Slot<K>>,
    /// Keys by the uid of the controller owner.
    owned: HashMap<Arc<str>, HashSet<Key>>,
    /// The list that is being received.
    listing: Option<Listing>,
    /// How many lists have begun.
    lists: u64,
    /// The watch has delivered everything up to this version.
    delivered: u64,
    /// The versions we have written and the watch has not passed.
    ahead: BTreeMap<u64, Key>,
    /// The objects that exist and cannot be decoded as they are now, by their uids.
    unreadable: HashMap<Key, Option<String>>,
}

#[derive(Default)]
struct Listing {
    keys: HashSet<Key>,
    newest: u64,
}

struct Slot<K> {
    state: State<K>,
    version: u64,
    /// The uid of the controller owner, if the object is here and has one.
    owner: Option<Arc<str>>,
    /// See [`substance`]: whether a newer version differs in more than its status is told without reading a text.
    substance: Option<u64>,
    /// For what we wrote and the watch has not confirmed: how many lists had begun then.
    unconfirmed: Option<u64>,
    /// The desired state that this version was found, or made, to satisfy.
    agreed: Option<Hash>,
}

enum State<K> {
    Here(Body<K>),
    /// We deleted it; the watch may still talk about it.
    Gone(Option<String>),
}

impl<K> View<K> {
    pub(crate) fn new(packed: bool) -> Self {
        View {
            packed,
            slots: HashMap::new(),
            owned: HashMap::new(),
            listing: None,
            lists: 0,
            delivered: 0,
            ahead: BTreeMap::new(),
            unreadable: HashMap::new(),
        }
    }
}

impl<K: Object> View<K> {
    pub(crate) fn get(&self, key: &Key) -> Option<Arc<K>> {
        self.slots.get(key).and_then(Slot::object)
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = Arc<K>> {
        self.slots.values().filter_map(Slot::object)
    }

    /// Whether objects are being listed.
    pub(crate) fn is_listing(&self) -> bool {
        self.listing.is_some()
    }

    pub(crate) fn owned_by(&self, uid: &str) -> Vec<Arc<K>> {
        self.owned.get(uid).into_iter().flatten().filter_map(|key| self.get(key)).collect()
    }

    /// What the watch delivers; the answer is what that changes in the view.
    pub(crate) fn observe(&mut self, event: Event<K>) -> Vec<Change<K>> {
        let mut changes = Vec::new();
        match event {
            Event::Init => {
                self.lists += 1;
                self.listing = Some(Listing::default());
            }
            Event::InitApply(object) => {
                if let Some(listing) = &mut self.listing {
                    listing.keys.insert(Key::of(&object));
                    listing.newest = listing.newest.max(version(&object));
                }
                changes.extend(self.applied(object, true));
            }
            Event::InitDone => {
                changes.extend(self.listed());
                changes.extend(self.passed());
            }
            Event::Apply(object) => {
                self.delivered = self.delivered.max(version(&object));
                changes.extend(self.applied(object, false));
                changes.extend(self.passed());
            }
            Event::Delete(object) => {
                self.delivered = self.delivered.max(version(&object));
                changes.extend(self.deleted_by_watch(object));
                changes.extend(self.passed());
            }
        }
        changes
    }

    /// An object that cannot be decoded. It exists, so it is not taken for deleted: its last readable version stays. The first
    /// part of the answer is whether this is news.
    pub(crate) fn unreadable(&mut self, head: &ObjectMeta, listed: bool) -> (bool, Vec<Change<K>>) {
        let key = Key::of_meta(head);
        self.pass_by(&key, head, listed);
        let mut changes = Vec::new();
        if let Some(slot) = self.slots.get_mut(&key) {
            if slot.unconfirmed.is_some() && version_of(head) < slot.version {
                return (false, changes);
            }
            match &slot.state {
                // What the watch delivers is newer than what we wrote.
                State::Here(known) if known.open().meta().uid == head.uid => slot.unconfirmed = None,
                State::Gone(uid) if *uid == head.uid => {}
                State::Here(_) | State::Gone(_) => {
                    let former = self.remove(&key);
                    changes.extend(former.map(|object| Change { object, gone: true, echo: false, before: None }));
                }
            }
        }
        let is_news = self.unreadable.insert(key, head.uid.clone()).as_ref() != Some(&head.uid);
        if !listed {
            changes.extend(self.passed());
        }
        (is_news, changes)
    }

    /// An object that this cache is not for, or not any more.
    pub(crate) fn ignored(&mut self, head: &ObjectMeta, listed: bool) -> Vec<Change<K>> {
        let key = Key::of_meta(head);
        self.unreadable.remove(&key);
        if listed {
            // As one that is not in the list.
            return Vec::new();
        }
        self.pass_by(&key, head, listed);
        let known = self.slots.get(&key).filter(|slot| slot.version < version_of(head) && slot.is_here());
        let former = known.is_some().then(|| self.remove(&key)).flatten();
        let mut changes: Vec<_> =
            former.map(|object| Change { object, gone: true, echo: false, before: None }).into_iter().collect();
        changes.extend(self.passed());
        changes
    }

    /// The end of an object whose last version cannot be decoded.
    pub(crate) fn deleted_unread(&mut self, head: &ObjectMeta) -> Vec<Change<K>> {
        let key = Key::of_meta(head);
        self.pass_by(&key, head, false);
        self.unreadable.remove(&key);
        let same = |object: &Arc<K>| object.meta().uid == head.uid;
        let known = self.get(&key).filter(same).is_some();
        let former = known.then(|| self.remove(&key)).flatten();
        let mut changes: Vec<_> =
            former.map(|object| Change { object, gone: true, echo: false, before: None }).into_iter().collect();
        changes.extend(self.passed());
        changes
    }

    /// Whether there is an object that cannot be decoded as it is now.
    pub(crate) fn is_unreadable(&self, key: &Key) -> bool {
        self.unreadable.contains_key(key)
    }

    /// The uids of the objects that cannot be decoded.
    pub(crate) fn unreadable_uids(&self) -> Vec<String> {
        self.unreadable.values().flatten().cloned().collect()
    }

    /// How many objects cannot be decoded.
    pub(crate) fn count_unreadable(&self) -> usize {
        self.unreadable.len()
    }

    /// Notes how far the watch or the list is.
    fn pass_by(&mut self, key: &Key, head: &ObjectMeta, listed: bool) {
        if !listed {
            self.delivered = self.delivered.max(version_of(head));
        } else if let Some(listing) = &mut self.listing {
            listing.keys.insert(key.clone());
            listing.newest = listing.newest.max(version_of(head));
        }
    }

    /// The API server's answer to a write of ours.
    pub(crate) fn written(&mut self, object: K) -> Arc<K> {
        let object = Arc::new(object);
        let version = version(&*object);
        // The watch delivers in order. If it is past this version, it has told us about this write
        // already, and about whatever came after it, which may be a delete.
        if self.delivered >= version {
            return object;
        }
        let key = Key::of(&*object);
        if let Some(slot) = self.slots.get(&key) {
            let deleted = matches!(&slot.state, State::Gone(uid) if *uid == object.meta().uid);
            if slot.version >= version || deleted {
                return object;
            }
        }
        let unconfirmed = Some(self.lists);
        self.ahead.insert(version, key.clone());
        self.put(key, &object, version, unconfirmed);
        object
    }

    /// The API server has told us that our delete removed the object for good.
    pub(crate) fn deleted(&mut self, object: &K) {
        let key = Key::of(object);
        let uid = object.meta().uid.clone();
        // Nothing there, or something else: the watch was faster.
        if let Some(slot) = self.slots.get(&key)
            && slot.object().is_some_and(|known| known.meta().uid == uid)
        {
            let version = slot.version.max(version(object));
            let unconfirmed = Some(self.lists);
            self.unlink(&key);
            let gone =
                Slot { state: State::Gone(uid), version, owner: None, substance: None, unconfirmed, agreed: None };
            self.slots.insert(key, gone);
        }
    }

    /// Whether this very object was found to satisfy the desired state before.
    pub(crate) fn agrees(&self, object: &K, hash: &str) -> bool {
        self.slots
            .get(&Key::of(object))
            .is_some_and(|slot| slot.version == version(object) && slot.agreed.as_deref() == Some(hash))
    }

    /// Remembers that this very object satisfies the desired state.
    pub(crate) fn agree(&mut self, object: &K, hash: &str) {
        if let Some(slot) = self.slots.get_mut(&Key::of(object))
            && slot.version == version(object)
        {
            slot.agreed = Some(hash.to_owned());
        }
    }

    fn applied(&mut self, object: K, listed: bool) -> Option<Change<K>> {
        let key = Key::of(&object);
        let was_unreadable = self.unreadable.remove(&key).is_some();
        let version = version(&object);
        if let Some(slot) = self.slots.get_mut(&key) {
            // A list that began after our write knows about it, whatever the versions say.
            let overruled = listed && slot.unconfirmed.is_some_and(|lists| lists < self.lists);
            if slot.unconfirmed.is_some() && !overruled {
                let gone = matches!(&slot.state, State::Gone(uid) if *uid == object.meta().uid);
                if gone || version < slot.version {
                    return None;
                }
            }
            // Known already: confirmed now if it was our write, and no news at all if it was not.
            if version == slot.version && version != 0 && slot.is_here() && !was_unreadable {
                slot.unconfirmed.take()?;
                return Some(Change { object: Arc::new(object), gone: false, echo: true, before: None });
            }
        }
        let object = Arc::new(object);
        let known = self.slots.get(&key).filter(|slot| slot.owner.is_some());
        let moved = known.filter(|slot| slot.owner.as_deref() != controller_of(&*object));
        let before = moved.and_then(Slot::object);
        self.put(key, &object, version, None);
        Some(Change { object, gone: false, echo: false, before })
    }

    fn deleted_by_watch(&mut self, object: K) -> Option<Change<K>> {
        let key = Key::of(&object);
        self.unreadable.remove(&key);
        let slot = self.slots.get(&key)?;
        let (uid, ours) = match &slot.state {
            State::Here(known) => (known.open().meta().uid.clone(), false),
            State::Gone(uid) => (uid.clone(), true),
        };
        // The end of a predecessor of what we have created in its place.
        if slot.unconfirmed.is_some() && uid != object.meta().uid && version(&object) <= slot.version {
            return None;
        }
        self.unlink(&key);
        Some(Change { object: Arc::new(object), gone: true, echo: ours, before: None })
    }

    /// The list is complete: what is not in it is no more, except what we have written since it began.
    fn listed(&mut self) -> Vec<Change<K>> {
        let listing = self.listing.take().unwrap_or_default();
        self.delivered = listing.newest;
        self.unreadable.retain(|key, _| listing.keys.contains(key));
        let vanished: Vec<Key> = self
            .slots
            .iter()
            .filter(|(key, slot)| {
                !listing.keys.contains(*key) && slot.unconfirmed.is_none_or(|lists| lists < self.lists)
            })
            .map(|(key, _)| key.clone())
            .collect();
        let removed = vanished.iter().filter_map(|key| self.remove(key));
        removed.map(|object| Change { object, gone: true, echo: false, before: None }).collect()
    }

    /// What the watch has passed without confirming it was deleted by somebody before a list that we took for older.
    fn passed(&mut self) -> Vec<Change<K>> {
        let mut changes = Vec::new();
        while let Some(entry) = self.ahead.first_entry()
            && *entry.key() <= self.delivered
        {
            let (version, key) = entry.remove_entry();
            let passed = |slot: &Slot<K>| slot.unconfirmed.is_some() && slot.version == version && slot.is_here();
            if self.slots.get(&key).is_some_and(passed) {
                let object = self.remove(&key);
                changes.extend(object.map(|object| Change { object, gone: true, echo: false, before: None }));
            }
        }
        changes
    }

    fn put(&mut self, key: Key, object: &Arc<K>, version: u64, unconfirmed: Option<u64>) {
        let substance = substance(&**object);
        let agreed = self.unlink(&key).filter(|before| substance.is_some() && before.substance == substance);
        let agreed = agreed.and_then(|before| before.agreed);
        let owner = controller_of(&**object).map(|uid| {
            let known = self.owned.get_key_value(uid).map(|(uid, _)| uid.clone());
            let uid = known.unwrap_or_else(|| uid.into());
            self.owned.entry(uid.clone()).or_default().insert(key.clone());
            uid
        });
        let state = State::Here(if self.packed { Body::pack(object) } else { Body::Open(object.clone()) });
        self.slots.insert(key, Slot { state, version, owner, substance, unconfirmed, agreed });
    }

    fn remove(&mut self, key: &Key) -> Option<Arc<K>> {
        self.unlink(key)?.object()
    }

    /// Takes the slot out, and out of the index.
    fn unlink(&mut self, key: &Key) -> Option<Slot<K>> {
        let slot = self.slots.remove(key)?;
        if let Some(uid) = &slot.owner
            && let Some(keys) = self.owned.get_mut(uid)
        {
            keys.remove(key);
            if keys.is_empty() {
                self.owned.remove(uid);
            }
        }
        Some(slot)
    }
}

impl<K: Object> Slot<K> {
    fn object(&self) -> Option<Arc<K>> {
        match &self.state {
            State::Here(body) => Some(body.open()),
            State::Gone(_) => None,
        }
    }

    fn is_here(&self) -> bool {
        matches!(self.state, State::Here(_))
    }
}

/// The uid of the owner that controls the object.
pub(crate) fn controller_of<K: Resource>(object: &K) -> Option<&str> {
    let owners = object.meta().owner_references.as_ref()?;
    owners.iter().find(|owner| owner.controller == Some(true)).map(|owner| owner.uid.as_str())
}

/// A hash of everything but the status, as far as it can be told without looking into the object. None of a kind that counts
/// no generations: such may differ in anything.
fn substance<K: Resource>(object: &K) -> Option<u64> {
    let meta = object.meta();
    let generation = meta.generation?;
    let mut hasher = DefaultHasher::new();
    (generation, &meta.uid, &meta.labels, &meta.annotations).hash(&mut hasher);
    for owner in meta.owner_references.iter().flatten() {
        (&owner.uid, owner.controller).hash(&mut hasher);
    }
    Some(hasher.finish())
}

fn version<K: Resource>(object: &K) -> u64 {
    version_of(object.meta())
}

fn version_of(meta: &ObjectMeta) -> u64 {
    meta.resource_version.as_deref().and_then(|version| version.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests;
