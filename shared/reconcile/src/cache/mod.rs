//! Caches: objects of one kind in memory, fed by a watch, and by our own writes until the watch has delivered them.

mod body;
mod raw;
pub(crate) mod secrets;
mod view;

use std::fmt;
use std::sync::Arc;

use ahoi_api::{Object, Reason};
use futures::{Stream, StreamExt};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Api;
use kube::runtime::{WatchStreamExt, watcher};
use parking_lot::{Mutex, RwLock};
use tokio::sync::{Notify, watch};
use tracing::{debug, info, warn};

pub(crate) use raw::Raw;
use raw::Read;
pub(crate) use view::{Change, Hash, Key, controller_of};

use crate::error::{Error, describe};

/// Objects of one kind in memory. Cheap to clone; reading it costs no request.
///
/// Reads include our own writes: each answer of the API server to a write through [`Owned`](crate::Owned), of a status or of a
/// finalizer is cached at once, until the watch delivers it or a newer version. So a reconcile right after a write does not
/// repeat it.
///
/// An object that cannot be decoded, for example because a newer release wrote it, does not affect others. It is reported once, and
/// does not count as deleted: reads return its last version that could be decoded since the process started, and its controller
/// does not reconcile it until it can be decoded again. [`Cache::find`] distinguishes it from an object that does not exist.
#[derive(Clone)]
pub struct Cache<K> {
    inner: Arc<Inner<K>>,
}

struct Inner<K> {
    view: RwLock<view::View<K>>,
    listeners: RwLock<Vec<Listener<K>>>,
    synced: watch::Sender<bool>,
    own_writes: Notify,
    /// Drops the fields of each object that are not needed.
    trim: Trim<K>,
    /// Why the last request of the watch failed, until one succeeds.
    trouble: Mutex<Option<String>>,
}

/// What a process reports about one of its caches.
pub(crate) trait CacheState: Send + Sync {
    /// The kind of its objects.
    fn kind(&self) -> String;
    /// Whether the first list is complete.
    fn is_synced(&self) -> bool;
    /// How many of its objects cannot be decoded.
    fn unreadable(&self) -> usize;
    /// Why the last request of its watch failed, until one succeeds.
    fn trouble(&self) -> Option<String>;
}

impl<K: Object> CacheState for Cache<K> {
    fn kind(&self) -> String {
        K::kind(&()).into_owned()
    }

    fn is_synced(&self) -> bool {
        Cache::is_synced(self)
    }

    fn unreadable(&self) -> usize {
        self.inner.view.read().count_unreadable()
    }

    fn trouble(&self) -> Option<String> {
        self.inner.trouble.lock().clone()
    }
}

/// An object from a watch, decoded or not.
pub(crate) struct Item<K> {
    head: ObjectMeta,
    read: Read<K>,
}

#[cfg(any(test, feature = "test-util"))]
impl<K> Item<K> {
    /// One that cannot be decoded.
    pub(crate) fn unreadable(head: ObjectMeta) -> Self {
        Item { head, read: Read::Unreadable("spec: unknown".to_owned()) }
    }
}

#[cfg(test)]
impl<K: Object> Item<K> {
    /// As a watch would deliver it.
    pub(crate) fn of(text: &str) -> Self {
        let raw: Raw<K> = serde_json::from_str(text).expect("a JSON object");
        let read = raw.decode();
        Item { head: raw.into_head(), read }
    }
}

/// Which objects a cache keeps, by their metadata.
pub(crate) type Ours = Box<dyn Fn(&ObjectMeta) -> bool + Send + Sync>;

/// Called with an object that cannot be decoded, and why, when that is news.
pub(crate) type Report = Box<dyn Fn(ObjectMeta, String) + Send + Sync>;

type Listener<K> = Box<dyn Fn(&Change<K>) + Send + Sync>;
pub(crate) type Trim<K> = Box<dyn Fn(&mut K) + Send + Sync>;

impl<K> fmt::Debug for Cache<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cache").field("synced", &*self.inner.synced.borrow()).finish_non_exhaustive()
    }
}

impl<K: Object> Cache<K> {
    pub(crate) fn new(trim: Trim<K>, packed: bool) -> Self {
        let inner = Inner {
            view: RwLock::new(view::View::new(packed)),
            listeners: RwLock::default(),
            synced: watch::Sender::new(false),
            own_writes: Notify::new(),
            trim,
            trouble: Mutex::default(),
        };
        Cache { inner: Arc::new(inner) }
    }

    /// The object of a cluster-scoped kind.
    pub fn get(&self, name: &str) -> Option<Arc<K>> {
        self.inner.view.read().get(&Key::new(None, name))
    }

    /// The object of a namespaced kind.
    pub fn get_in(&self, namespace: &str, name: &str) -> Option<Arc<K>> {
        self.inner.view.read().get(&Key::new(Some(namespace), name))
    }

    /// The object, or an error if it exists but cannot be decoded: for decisions that depend on whether an object exists.
    /// `namespace` is empty for cluster-scoped kinds.
    pub fn find(&self, namespace: &str, name: &str) -> Result<Option<Arc<K>>, Error> {
        let (kind, key) = (K::kind(&()), Key::new(Some(namespace), name));
        let view = self.inner.view.read();
        match view.get(&key) {
            None if view.is_unreadable(&key) => Err(Error::structural(
                Reason::Unreadable,
                format!("this release cannot read {kind} {name}; everything that depends on it is left as it is"),
            )),
            object => Ok(object),
        }
    }

    /// The uids of the objects that cannot be decoded. They exist.
    pub fn unreadable_uids(&self) -> Vec<String> {
        self.inner.view.read().unreadable_uids()
    }

    /// Every object, in no order.
    pub fn all(&self) -> Vec<Arc<K>> {
        self.inner.view.read().all().collect()
    }

    /// Every object, and whether they are being listed again after a lost watch: then some are older than the newest version
    /// suggests.
    pub fn all_and_listing(&self) -> (Vec<Arc<K>>, bool) {
        let view = self.inner.view.read();
        (view.all().collect(), view.is_listing())
    }

    /// The results of `look` for all objects, one after the other: not all objects of a packed cache should be in memory at once
    /// ([`Platform::watch_all_packed`](crate::Platform::watch_all_packed)). `look` must not use this cache.
    pub fn select<T>(&self, mut look: impl FnMut(&K) -> Option<T>) -> Vec<T> {
        self.inner.view.read().all().filter_map(|object| look(&object)).collect()
    }

    /// The objects whose controller owner has this uid, by an index.
    pub(crate) fn owned_by(&self, uid: &str) -> Vec<Arc<K>> {
        self.inner.view.read().owned_by(uid)
    }

    /// Whether the object exists and its current version cannot be decoded.
    pub(crate) fn is_unreadable(&self, namespace: &str, name: &str) -> bool {
        self.inner.view.read().is_unreadable(&Key::new(Some(namespace), name))
    }

    /// Whether the first list is complete. Before that, a missing object may exist.
    pub fn is_synced(&self) -> bool {
        *self.inner.synced.borrow()
    }

    /// Returns once the first list is complete.
    pub async fn wait_until_ready(&self) {
        // The sender lives as long as the cache, so this cannot fail.
        let _ = self.inner.synced.subscribe().wait_for(|synced| *synced).await;
    }

    /// Notifies of changes by any client, for tasks that are no controllers. One notification may stand for several changes.
    pub fn changes(&self) -> watch::Receiver<()> {
        let (changed, changes) = watch::channel(());
        self.listen(move |_| {
            changed.send_replace(());
        });
        changes
    }

    pub(crate) fn lookup(&self, key: &Key) -> Option<Arc<K>> {
        self.inner.view.read().get(key)
    }

    /// Calls `listener` after each change that the watch delivers.
    pub(crate) fn listen(&self, listener: impl Fn(&Change<K>) + Send + Sync + 'static) {
        self.inner.listeners.write().push(Box::new(listener));
    }

    /// The API server's answer to a write of ours.
    pub(crate) fn written(&self, mut object: K) -> Arc<K> {
        self.trim(&mut object);
        let written = self.inner.view.write().written(object);
        self.inner.own_writes.notify_waiters();
        written
    }

    /// The API server answered that our delete removed the object.
    pub(crate) fn deleted(&self, object: &K) {
        self.inner.view.write().deleted(object);
    }

    pub(crate) fn agrees(&self, object: &K, hash: &Hash) -> bool {
        self.inner.view.read().agrees(object, hash)
    }

    pub(crate) fn agree(&self, object: &K, hash: &Hash) {
        self.inner.view.write().agree(object, hash);
    }

    pub(crate) fn observe(&self, event: watcher::Event<K>) {
        let event = event.modify(|object| self.trim(object));
        let complete = matches!(event, watcher::Event::InitDone);
        let changes = self.inner.view.write().observe(event);
        self.announce(&changes);
        if complete {
            self.inner.synced.send_replace(true);
        }
    }

    fn announce(&self, changes: &[Change<K>]) {
        let listeners = self.inner.listeners.read();
        for change in changes {
            listeners.iter().for_each(|listener| listener(change));
        }
    }

    /// Processes an event of the watch. Returns an object that cannot be decoded, and why, if that is news.
    pub(crate) fn receive(&self, event: watcher::Event<Item<K>>) -> Option<(ObjectMeta, String)> {
        use watcher::Event;
        let (Item { head, read }, listed) = match event {
            Event::Init => {
                self.observe(Event::Init);
                return None;
            }
            Event::InitDone => {
                self.observe(Event::InitDone);
                return None;
            }
            Event::Delete(Item { read: Read::Object(object), .. }) => {
                self.observe(Event::Delete(object));
                return None;
            }
            Event::Delete(Item { head, .. }) => {
                let changes = self.inner.view.write().deleted_unread(&head);
                self.announce(&changes);
                return None;
            }
            Event::InitApply(item) => (item, true),
            Event::Apply(item) => (item, false),
        };
        match read {
            Read::Object(object) => {
                if self.inner.view.read().is_unreadable(&Key::of_meta(&head)) {
                    info!(kind = %K::kind(&()), namespace = head.namespace, name = head.name, "the object can be decoded again");
                }
                self.observe(if listed { Event::InitApply(object) } else { Event::Apply(object) });
                None
            }
            Read::Ignored => {
                let changes = self.inner.view.write().ignored(&head, listed);
                self.announce(&changes);
                None
            }
            Read::Unreadable(why) => {
                let (is_news, changes) = self.inner.view.write().unreadable(&head, listed);
                self.announce(&changes);
                is_news.then_some((head, why))
            }
        }
    }

    /// Drops the managed fields, which are often half of an object, and those of [`Inner::trim`].
    fn trim(&self, object: &mut K) {
        object.meta_mut().managed_fields = None;
        (self.inner.trim)(object);
    }

    /// Feeds the cache, without end.
    pub(crate) async fn watch(self, api: Api<K>, config: watcher::Config, ours: Ours, report: Report) {
        let read = move |raw: Raw<K>| {
            let read = if ours(raw.head()) { raw.decode() } else { Read::Ignored };
            Item { head: raw.into_head(), read }
        };
        let events = watcher::watcher(Raw::api(api), config).default_backoff();
        self.follow(events.map(move |event| event.map(|event| map(event, &read))), &report).await;
    }

    /// Feeds the cache with these events.
    async fn follow(
        self,
        events: impl Stream<Item = watcher::Result<watcher::Event<Item<K>>>> + Send,
        report: &Report,
    ) {
        let kind = K::kind(&());
        let mut events = std::pin::pin!(events);
        while let Some(event) = events.next().await {
            match event {
                Ok(event) => {
                    *self.inner.trouble.lock() = None;
                    if let Some((head, why)) = self.receive(event) {
                        report(head, why);
                    }
                }
                Err(error) => {
                    let text = describe_watch(&error);
                    if is_unknown_kind(&error) {
                        warn!(%kind, "the API server does not know this kind; check that its CRD is installed; retrying");
                    } else if self.is_synced() {
                        // Expected: watches end regularly and are resumed where they ended.
                        debug!(%kind, error = text, "the watch was interrupted; resuming");
                    } else {
                        warn!(%kind, error = text, "the first list failed; retrying");
                    }
                    *self.inner.trouble.lock() = Some(text);
                }
            }
        }
    }
}

fn map<A, B>(event: watcher::Event<A>, f: impl Fn(A) -> B) -> watcher::Event<B> {
    use watcher::Event;
    match event {
        Event::Apply(object) => Event::Apply(f(object)),
        Event::Delete(object) => Event::Delete(f(object)),
        Event::Init => Event::Init,
        Event::InitApply(object) => Event::InitApply(f(object)),
        Event::InitDone => Event::InitDone,
    }
}

fn is_unknown_kind(error: &watcher::Error) -> bool {
    match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status)) => status.code == 404,
        _ => false,
    }
}

fn describe_watch(error: &watcher::Error) -> String {
    match error {
        watcher::Error::InitialListFailed(error)
        | watcher::Error::WatchStartFailed(error)
        | watcher::Error::WatchFailed(error) => describe(error),
        watcher::Error::WatchError(status) => status.message.clone(),
        watcher::Error::NoResourceVersion => "an object has no version".to_owned(),
    }
}
