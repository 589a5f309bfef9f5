//! Caches: objects of one kind in memory, fed by a watch, and by our own writes until the watch has caught up.

mod body;
mod view;

use std::fmt;
use std::sync::Arc;

use futures::StreamExt;
use kube::Api;
use kube::runtime::{WatchStreamExt, watcher};
use parking_lot::RwLock;
use tokio::sync::watch;
use tracing::{debug, warn};

pub(crate) use view::{Change, Hash, Key, controller_of};

use crate::reconciler::Object;

/// Objects of one kind in memory. Cheap to clone; reading it costs no request.
///
/// Reads see our own writes: every answer of the API server to a write through [`Owned`](crate::Owned), to a status
/// or to a finalizer is there at once, and stays until the watch has delivered it or something newer. So a pass right
/// after a write does not repeat it.
pub struct Cache<K> {
    inner: Arc<Inner<K>>,
}

struct Inner<K> {
    view: RwLock<view::View<K>>,
    listeners: RwLock<Vec<Listener<K>>>,
    synced: watch::Sender<bool>,
    /// Drops from each object what nobody reads.
    trim: Trim<K>,
}

type Listener<K> = Box<dyn Fn(&Change<K>) + Send + Sync>;
pub(crate) type Trim<K> = Box<dyn Fn(&mut K) + Send + Sync>;

impl<K> Clone for Cache<K> {
    fn clone(&self) -> Self {
        Cache { inner: self.inner.clone() }
    }
}

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
            trim,
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

    /// Every object, in no order.
    pub fn all(&self) -> Vec<Arc<K>> {
        self.inner.view.read().all().collect()
    }

    /// The same, and whether they are being listed again because a watch was lost: then some are as they were before, and others
    /// newer, so that the newest version says nothing about the rest.
    pub fn all_and_listing(&self) -> (Vec<Arc<K>>, bool) {
        let view = self.inner.view.read();
        (view.all().collect(), view.is_listing())
    }

    /// What `look` makes of the objects it wants something of, one after the other: of a large cache that is kept small
    /// ([`Platform::cache_packed`](crate::Platform::cache_packed)) not all should be read at once. `look` must not use this
    /// cache.
    pub fn select<T>(&self, mut look: impl FnMut(&K) -> Option<T>) -> Vec<T> {
        self.inner.view.read().all().filter_map(|object| look(&object)).collect()
    }

    /// The objects whose controller owner has this uid, by an index.
    pub fn owned_by(&self, uid: &str) -> Vec<Arc<K>> {
        self.inner.view.read().owned_by(uid)
    }

    /// Whether the first list is complete. Before that, absence means nothing.
    pub fn is_synced(&self) -> bool {
        *self.inner.synced.borrow()
    }

    /// Returns once the first list is complete.
    pub async fn wait_until_ready(&self) {
        // The sender lives as long as the cache, so this cannot fail.
        let _ = self.inner.synced.subscribe().wait_for(|synced| *synced).await;
    }

    /// Tells of changes, whoever made them; for what is not a controller. Many may be told as one.
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

    /// Calls `listener` after each change that the watch brings.
    pub(crate) fn listen(&self, listener: impl Fn(&Change<K>) + Send + Sync + 'static) {
        self.inner.listeners.write().push(Box::new(listener));
    }

    /// The API server's answer to a write of ours.
    pub(crate) fn written(&self, mut object: K) -> Arc<K> {
        self.trim(&mut object);
        self.inner.view.write().written(object)
    }

    /// The API server has told us that our delete removed the object for good.
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
        let listeners = self.inner.listeners.read();
        for change in &changes {
            listeners.iter().for_each(|listener| listener(change));
        }
        if complete {
            self.inner.synced.send_replace(true);
        }
    }

    /// Managed fields are often half of an object, and nobody reads them.
    fn trim(&self, object: &mut K) {
        object.meta_mut().managed_fields = None;
        (self.inner.trim)(object);
    }

    /// Feeds the cache for ever.
    pub(crate) async fn watch(self, api: Api<K>, config: watcher::Config) {
        let kind = K::kind(&());
        let mut events = watcher::watcher(api, config).default_backoff().boxed();
        while let Some(event) = events.next().await {
            match event {
                Ok(event) => self.observe(event),
                Err(error) if is_unknown_kind(&error) => {
                    warn!(%kind, "the API server does not know this kind; is its CRD installed? Trying again");
                }
                // Watches end all the time, and are resumed where they ended.
                Err(error) if self.is_synced() => debug!(%kind, %error, "the watch was interrupted; resuming"),
                Err(error) => warn!(%kind, %error, "the first list failed; trying again"),
            }
        }
    }
}

fn is_unknown_kind(error: &watcher::Error) -> bool {
    match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status)) => status.code == 404,
        _ => false,
    }
}
