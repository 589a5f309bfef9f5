//! A cache of Secrets that others can write. It watches the metadata of all, and reads the content of the few that are expected, so
//! neither the number nor the size of the others costs memory.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use ahoi_api::Object;
use futures::stream::{BoxStream, StreamExt};
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::core::PartialObjectMeta;
use kube::runtime::watcher::Event;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client};
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tracing::warn;

use super::raw::{Raw, Read};
use super::{Cache, Item, Key, Report};
use crate::error::Error;
use crate::objects::Objects;

/// Contents that are read at once.
const READS: usize = 4;
/// How long to wait for the answer to our own write, which the watch often overtakes and which saves the read.
const OWN_WRITE: Duration = Duration::from_millis(100);
/// Delays after a failed read: from the first, doubled up to the second.
const RETRY: Duration = Duration::from_millis(500);
const MAX_RETRY: Duration = Duration::from_secs(30);

type Meta = Raw<PartialObjectMeta<Secret>>;
type Events = BoxStream<'static, watcher::Result<Event<Item<Secret>>>>;

/// Reads the Secrets of the objects of one kind.
struct Contents<O> {
    cache: Cache<Secret>,
    owners: Cache<O>,
    objects: Objects<Secret>,
    /// What follows the name of its object in the name of a Secret.
    suffix: &'static str,
    /// Secrets of a matching name whose object does not exist (yet), and their metadata.
    waiting: Mutex<HashMap<Key, ObjectMeta>>,
}

/// The inputs of the stream.
enum Input {
    Watched(Box<watcher::Result<Event<Meta>>>),
    /// A new object whose Secret was ignored.
    Known(Key),
}

/// Feeds the cache, without end.
pub(crate) async fn watch<O: Object>(
    cache: Cache<Secret>,
    owners: Cache<O>,
    suffix: &'static str,
    objects: Objects<Secret>,
    client: Client,
    config: watcher::Config,
    report: Report,
) {
    let (found, mut known) = mpsc::unbounded_channel();
    let contents = Arc::new(Contents { cache: cache.clone(), owners, objects, suffix, waiting: Mutex::default() });
    let listening = contents.clone();
    contents.owners.listen(move |change| listening.object_added(&Key::of(&*change.object), &found));
    contents.owners.wait_until_ready().await;
    let metadata = watcher::watcher(Raw::api(Api::<PartialObjectMeta<Secret>>::all(client)), config).default_backoff();
    let known = futures::stream::poll_fn(move |context| known.poll_recv(context));
    let inputs =
        futures::stream::select(metadata.map(|event| Input::Watched(Box::new(event))), known.map(Input::Known));
    let events: Events = inputs
        .filter_map({
            let contents = contents.clone();
            move |input| std::future::ready(contents.next(input))
        })
        .map(move |step| contents.clone().take(step))
        // In order.
        .buffered(READS)
        .filter_map(std::future::ready)
        .boxed();
    cache.follow(events, &report).await;
}

/// What to do with an input, decided in order.
enum Step {
    Forward(Box<watcher::Result<Event<Item<Secret>>>>),
    Read { head: Box<ObjectMeta>, listed: bool },
}

impl<O: Object> Contents<O> {
    /// Requests the Secret of a new object, if it was ignored before.
    fn object_added(&self, owner: &Key, found: &mpsc::UnboundedSender<Key>) {
        let secret = Key::new(Some(&owner.namespace), &format!("{}{}", owner.name, self.suffix));
        if self.waiting.lock().contains_key(&secret) {
            // Fails only while the process ends.
            let _ = found.send(secret);
        }
    }

    fn next(&self, input: Input) -> Option<Step> {
        let event = match input {
            Input::Watched(event) => *event,
            Input::Known(key) => {
                let head = self.waiting.lock().remove(&key)?;
                return Some(Step::Read { head: Box::new(head), listed: false });
            }
        };
        let event = match event {
            Err(error) => Err(error),
            Ok(Event::InitApply(meta)) => return Some(self.look(meta.into_head(), true)),
            Ok(Event::Apply(meta)) => return Some(self.look(meta.into_head(), false)),
            Ok(Event::Init) => {
                self.waiting.lock().clear();
                Ok(Event::Init)
            }
            Ok(Event::InitDone) => Ok(Event::InitDone),
            Ok(Event::Delete(meta)) => {
                let head = meta.into_head();
                self.waiting.lock().remove(&Key::of_meta(&head));
                let secret = Secret { metadata: head.clone(), ..Secret::default() };
                Ok(Event::Delete(Item { head, read: Read::Object(secret) }))
            }
        };
        Some(Step::Forward(Box::new(event)))
    }

    fn look(&self, head: ObjectMeta, listed: bool) -> Step {
        let key = Key::of_meta(&head);
        self.waiting.lock().remove(&key);
        let Some(owner) = key.name.strip_suffix(self.suffix) else { return ignore(head, listed) };
        // Under the lock, so that an object that is added now is not missed.
        let mut waiting = self.waiting.lock();
        if self.owners.lookup(&Key { namespace: key.namespace.clone(), name: owner.into() }).is_some() {
            return Step::Read { head: Box::new(head), listed };
        }
        let (uid, version) = (head.uid.clone(), head.resource_version.clone());
        let (namespace, name) = (head.namespace.clone(), head.name.clone());
        waiting.insert(key, ObjectMeta { namespace, name, uid, resource_version: version, ..ObjectMeta::default() });
        ignore(head, listed)
    }

    async fn take(self: Arc<Self>, step: Step) -> Option<watcher::Result<Event<Item<Secret>>>> {
        let (head, listed) = match step {
            Step::Forward(event) => return Some(*event),
            Step::Read { head, listed } => (*head, listed),
        };
        let read = self.read(&head, listed).await?;
        let item = Item { head, read };
        Some(Ok(if listed { Event::InitApply(item) } else { Event::Apply(item) }))
    }

    /// The Secret of this version, from the cache or the API server. `None` if it was deleted.
    async fn read(&self, head: &ObjectMeta, listed: bool) -> Option<Read<Secret>> {
        let (key, mut retry) = (Key::of_meta(head), RETRY);
        let known = if listed {
            self.known(&key, head)
        } else {
            // After the timeout it costs a read.
            tokio::time::timeout(OWN_WRITE, self.written(&key, head)).await.ok()
        };
        if let Some(known) = known {
            return Some(Read::Object(Secret::clone(&known)));
        }
        loop {
            match self.objects.get(&key).await {
                Ok(mut secret) => {
                    // The watch delivers newer versions, and the cache must not be ahead of it.
                    secret.metadata.resource_version.clone_from(&head.resource_version);
                    return Some(Read::Object(secret));
                }
                Err(Error::Kube(kube::Error::Api(status))) if status.code == 404 => return None,
                Err(Error::Structural { message, .. }) => return Some(Read::Unreadable(message)),
                Err(error) => {
                    let text = error.to_string();
                    warn!(namespace = %key.namespace, name = %key.name, error = text, "cannot read the Secret; retrying");
                    *self.cache.inner.trouble.lock() = Some(text);
                }
            }
            tokio::time::sleep(retry).await;
            retry = (retry * 2).min(MAX_RETRY);
        }
    }

    /// The Secret of this version, if the cache has it.
    fn known(&self, key: &Key, head: &ObjectMeta) -> Option<Arc<Secret>> {
        self.cache
            .lookup(key)
            .filter(|known| known.metadata.resource_version == head.resource_version && known.metadata.uid == head.uid)
    }

    /// The Secret of this version, once our own write is in the cache.
    async fn written(&self, key: &Key, head: &ObjectMeta) -> Arc<Secret> {
        loop {
            let next = self.cache.inner.own_writes.notified();
            if let Some(known) = self.known(key, head) {
                return known;
            }
            next.await;
        }
    }
}

/// An event that makes the cache ignore the Secret.
fn ignore(head: ObjectMeta, listed: bool) -> Step {
    let item = Item { head, read: Read::Ignored };
    Step::Forward(Box::new(Ok(if listed { Event::InitApply(item) } else { Event::Apply(item) })))
}
