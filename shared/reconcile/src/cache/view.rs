//! The objects of a cache: events of the watch and our own writes, in order. Pure, so that every interleaving can be tested.
//!
//! A watch lags behind. A reconciler that reads only what the watch has delivered does not see its own last write, and writes
//! again: most superfluous requests of simple operators are of this kind. So each answer of the API server to our own write is in
//! the view at once, until the watch has caught up. Resource versions decide which one is newer; within a kind they are comparable
//! numbers (KEP-5504).

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;

use ahoi_api::Object;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use kube::runtime::watcher::Event;

use super::body::Body;

/// Namespace (empty for cluster-scoped kinds) and name of an object. Shared, since caches and queues have many of the same.
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

/// A change, for the listeners of a cache.
#[derive(Clone, Debug)]
pub(crate) struct Change<K> {
    pub(crate) object: Arc<K>,
    /// The object was deleted.
    pub(crate) gone: bool,
    /// Our own write, which its author has seen in the answer.
    pub(crate) echo: bool,
    /// The object before the change, if it had another controller owner.
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
    /// The versions that we wrote and that the watch has not reached.
    ahead: BTreeMap<u64, Key>,
    /// The uids of objects whose current version cannot be decoded.
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
    /// See [`substance`]: shows without decoding whether a newer version differs in more than its status.
    substance: Option<u64>,
    /// For a write that the watch has not confirmed: how many lists had begun then.
    unconfirmed: Option<u64>,
    /// The hash of the desired state that this version satisfies.
    agreed: Option<Hash>,
}

enum State<K> {
    Here(Body<K>),
    /// We deleted it; the watch may still deliver events about it.
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

    /// Processes an event of the watch. Returns what it changes in the view.
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
                changes.extend(self.drop_unconfirmed());
            }
            Event::Apply(object) => {
                self.delivered = self.delivered.max(version(&object));
                changes.extend(self.applied(object, false));
                changes.extend(self.drop_unconfirmed());
            }
            Event::Delete(object) => {
                self.delivered = self.delivered.max(version(&object));
                changes.extend(self.deleted_by_watch(object));
                changes.extend(self.drop_unconfirmed());
            }
        }
        changes
    }

    /// Processes an object that cannot be decoded. It exists, so its last decoded version stays. Returns whether this is news, and
    /// what it changes.
    pub(crate) fn unreadable(&mut self, head: &ObjectMeta, listed: bool) -> (bool, Vec<Change<K>>) {
        let key = Key::of_meta(head);
        self.advance(&key, head, listed);
        let mut changes = Vec::new();
        if let Some(slot) = self.slots.get_mut(&key) {
            if slot.unconfirmed.is_some() && version_of(head) < slot.version {
                return (false, changes);
            }
            match &slot.state {
                // The watch delivers a newer version than our write.
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
            changes.extend(self.drop_unconfirmed());
        }
        (is_news, changes)
    }

    /// Processes an object that this cache does not keep, or no longer.
    pub(crate) fn ignored(&mut self, head: &ObjectMeta, listed: bool) -> Vec<Change<K>> {
        let key = Key::of_meta(head);
        self.unreadable.remove(&key);
        if listed {
            // Like an object that is not in the list.
            return Vec::new();
        }
        self.advance(&key, head, listed);
        let known = self.slots.get(&key).filter(|slot| slot.version < version_of(head) && slot.is_here());
        let former = known.is_some().then(|| self.remove(&key)).flatten();
        let mut changes: Vec<_> =
            former.map(|object| Change { object, gone: true, echo: false, before: None }).into_iter().collect();
        changes.extend(self.drop_unconfirmed());
        changes
    }

    /// Processes the deletion of an object whose last version cannot be decoded.
    pub(crate) fn deleted_unread(&mut self, head: &ObjectMeta) -> Vec<Change<K>> {
        let key = Key::of_meta(head);
        self.advance(&key, head, false);
        self.unreadable.remove(&key);
        let same = |object: &Arc<K>| object.meta().uid == head.uid;
        let known = self.get(&key).filter(same).is_some();
        let former = known.then(|| self.remove(&key)).flatten();
        let mut changes: Vec<_> =
            former.map(|object| Change { object, gone: true, echo: false, before: None }).into_iter().collect();
        changes.extend(self.drop_unconfirmed());
        changes
    }

    /// Whether the current version of the object cannot be decoded.
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

    /// Records how far the watch or the list has come.
    fn advance(&mut self, key: &Key, head: &ObjectMeta, listed: bool) {
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
        // The watch delivers in order. If it is past this version, it has delivered this write and whatever followed, which may
        // be a deletion.
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

    /// The API server answered that our delete removed the object.
    pub(crate) fn deleted(&mut self, object: &K) {
        let key = Key::of(object);
        let uid = object.meta().uid.clone();
        // Missing or recreated: the watch was faster.
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

    /// Whether this version is known to satisfy the desired state.
    pub(crate) fn agrees(&self, object: &K, hash: &str) -> bool {
        self.slots
            .get(&Key::of(object))
            .is_some_and(|slot| slot.version == version(object) && slot.agreed.as_deref() == Some(hash))
    }

    /// Records that this version satisfies the desired state.
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
            // A list that began after our write includes it, whatever the versions are.
            let overruled = listed && slot.unconfirmed.is_some_and(|lists| lists < self.lists);
            if slot.unconfirmed.is_some() && !overruled {
                let gone = matches!(&slot.state, State::Gone(uid) if *uid == object.meta().uid);
                if gone || version < slot.version {
                    return None;
                }
            }
            // Known already: confirmed if it was our write, otherwise no change.
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
        // The deletion of the predecessor of an object that we recreated.
        if slot.unconfirmed.is_some() && uid != object.meta().uid && version(&object) <= slot.version {
            return None;
        }
        self.unlink(&key);
        Some(Change { object: Arc::new(object), gone: true, echo: ours, before: None })
    }

    /// The list is complete. Objects that are not in it were deleted, except those that we wrote since it began.
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

    /// A write of ours that the watch passed without confirming it was deleted before a list that we took for older.
    fn drop_unconfirmed(&mut self) -> Vec<Change<K>> {
        let mut changes = Vec::new();
        while let Some(entry) = self.ahead.first_entry()
            && *entry.key() <= self.delivered
        {
            let (version, key) = entry.remove_entry();
            let is_unconfirmed =
                |slot: &Slot<K>| slot.unconfirmed.is_some() && slot.version == version && slot.is_here();
            if self.slots.get(&key).is_some_and(is_unconfirmed) {
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

    /// Removes the slot, also from the index.
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

/// A hash of everything but the status, from the metadata. `None` for a kind without generations, which may differ anywhere.
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
