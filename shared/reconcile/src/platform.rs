//! What every controller of a process shares.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use ahoi_api::{Conditioned, GROUP, Object, Reason};
use k8s_controller::events::{Event, EventRecorder, Reporter};
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::core::PartialObjectMeta;
use kube::runtime::watcher;
use kube::{Api, Client};
use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

pub use k8s_controller::events::EventType;

use crate::cache::{Cache, CacheState, Key, Ours, Report, Trim, secrets};
use crate::error::Error;
use crate::metrics::{Metrics, Requests};
use crate::objects::Objects;
use crate::partitions::Partitions;
use crate::unready::Counts;

/// Objects in one page of a list. A whole page is in memory, as text and as objects.
const PAGE: u32 = 100;
/// Objects in one page of a kind that tenants can write. An object may have 1.5 MB, and a page is in memory three times.
const PAGE_OF_TENANTS: u32 = 16;
/// More than the labels, annotations, finalizers and owners of our objects have.
const MAX_METADATA_BYTES: usize = 64 * 1024;
/// How long a first list may take before `/readyz` and a metric report it.
const LIST_OVERDUE: Duration = Duration::from_secs(45);

/// What the controllers of a process share. Cheap to clone.
#[derive(Clone)]
pub struct Platform {
    /// The client, with timeouts and metrics.
    pub client: Client,
    shared: Arc<Shared>,
}

/// The options of a process.
pub(crate) struct Process {
    pub(crate) name: String,
    pub(crate) instance: String,
    pub(crate) namespace: String,
    pub(crate) concurrency: u16,
    pub(crate) partitions: Partitions,
}

struct Shared {
    process: Process,
    events: EventRecorder,
    metrics: Metrics,
    /// Cancelled when this process begins to work: a standby watches nothing.
    begun: CancellationToken,
    begun_at: OnceLock<Instant>,
    shutdown: CancellationToken,
    caches: Mutex<Vec<Box<dyn CacheState>>>,
    conditions: Mutex<Vec<(&'static str, Condition)>>,
    failures: mpsc::UnboundedSender<String>,
    unready: Mutex<Vec<(&'static str, CountUnready)>>,
}

/// Counts the objects of a controller that are not ready.
type CountUnready = Box<dyn Fn() -> Counts + Send + Sync>;

/// A condition of readiness.
type Condition = Box<dyn Fn() -> bool + Send + Sync>;

impl Platform {
    /// `failures` receives the names of tasks that stopped before the shutdown.
    pub(crate) fn new(
        client: Client,
        process: Process,
        requests: Requests,
        failures: mpsc::UnboundedSender<String>,
    ) -> Self {
        let reporter =
            Reporter { controller: format!("{GROUP}/{}", process.name), instance: Some(process.instance.clone()) };
        let shared = Shared {
            process,
            events: EventRecorder::new(client.clone(), reporter),
            metrics: Metrics::new(requests),
            begun: CancellationToken::new(),
            begun_at: OnceLock::new(),
            shutdown: CancellationToken::new(),
            caches: Mutex::default(),
            conditions: Mutex::default(),
            failures,
            unready: Mutex::default(),
        };
        Platform { client, shared: Arc::new(shared) }
    }

    /// Name of the process and of its field manager, such as "ahoi-customer".
    pub fn name(&self) -> &str {
        &self.shared.process.name
    }

    /// Name of the replica; in a cluster that of the pod.
    pub fn instance(&self) -> &str {
        &self.shared.process.instance
    }

    /// The namespace of the process and its Leases.
    pub fn namespace(&self) -> &str {
        &self.shared.process.namespace
    }

    /// Returns an error with `why` if `--partitions` is above 1: for an operator that decides from its own memory, and so cannot be
    /// divided among replicas.
    pub fn require_one_partition(&self, why: &str) -> anyhow::Result<()> {
        anyhow::ensure!(self.partitions().count() == 1, "{} requires --partitions=1: {why}", self.name());
        Ok(())
    }

    /// Cancelled on SIGTERM.
    pub fn shutdown(&self) -> &CancellationToken {
        &self.shared.shutdown
    }

    /// Writes a status during a reconcile, such as a name before the object of that name is created, or a step of a cleanup.
    /// Returns the object with it, which `cache` has at once. The status at the end of a reconcile is returned instead.
    pub async fn write_status<K: Conditioned>(
        &self,
        cache: &Cache<K>,
        object: &K,
        status: &K::Status,
    ) -> Result<Arc<K>, Error> {
        Ok(cache.written(self.objects().set_status(object, status).await?))
    }

    /// Makes `/readyz` wait for a condition in addition to the caches. `what` completes the text "waiting for".
    pub fn ready_if(&self, what: &'static str, is_met: impl Fn() -> bool + Send + Sync + 'static) {
        self.shared.conditions.lock().push((what, Box::new(is_met)));
    }

    /// The conditions of [`Platform::ready_if`] that are not met.
    pub(crate) fn unmet(&self) -> Vec<&'static str> {
        self.shared.conditions.lock().iter().filter(|(_, is_met)| !is_met()).map(|(what, _)| *what).collect()
    }

    /// Registers metrics of an operator. Their labels must be bounded: never the name of an object.
    pub fn register(&self, register: impl FnOnce(&mut Registry)) {
        register(&mut self.metrics().registry.lock());
    }

    /// Caches every object of a kind in all namespaces. The watch starts when this replica starts to work: a standby watches
    /// nothing, which saves the API server and its own memory as much as the leader's watch costs.
    ///
    /// While the kind's CRD is not installed, the cache retries.
    pub fn watch_all<K: Object>(&self) -> Cache<K> {
        self.cache(Api::all(self.client.clone()), watcher::Config::default())
    }

    /// [`Platform::watch_all`] for a kind of which each customer has one or two: the objects are kept as text, in less than half
    /// of the memory. Each read parses the text, so do not call [`Cache::all`].
    pub fn watch_all_packed<K: Object>(&self) -> Cache<K> {
        self.start(Api::all(self.client.clone()), watcher::Config::default(), Box::new(|_| ()), true)
    }

    /// Caches the objects of one kind that `api` and `config` select. Use `PartialObjectMeta<K>` where the metadata is enough.
    pub fn cache<K: Object>(&self, api: Api<K>, config: watcher::Config) -> Cache<K> {
        self.start(api, config, Box::new(|_| ()), false)
    }

    /// [`Platform::cache`] without the fields that `trim` drops from each object, such as the data of Secrets.
    pub fn cache_trimmed<K: Object>(
        &self,
        api: Api<K>,
        config: watcher::Config,
        trim: impl Fn(&mut K) + Send + Sync + 'static,
    ) -> Cache<K> {
        self.start(api, config, Box::new(trim), false)
    }

    /// Caches a kind that tenants can write, as text: only the objects that are `ours` by their name, namespace and controller
    /// reference, whatever labels others have. Lists are read in small pages.
    pub fn cache_ours<K: Object>(
        &self,
        api: Api<K>,
        config: watcher::Config,
        ours: impl Fn(&ObjectMeta) -> bool + Send + Sync + 'static,
    ) -> Cache<K> {
        let cache = Cache::new(Box::new(|object: &mut K| bound_metadata(object.meta_mut())), true);
        self.feed(api, config.page_size(PAGE_OF_TENANTS), &cache, Box::new(ours));
        cache
    }

    /// [`Platform::cache_ours`], not as text, and without the fields that `trim` drops from each object.
    pub fn cache_ours_trimmed<K: Object>(
        &self,
        api: Api<K>,
        config: watcher::Config,
        ours: impl Fn(&ObjectMeta) -> bool + Send + Sync + 'static,
        trim: impl Fn(&mut K) + Send + Sync + 'static,
    ) -> Cache<K> {
        let trim = move |object: &mut K| {
            bound_metadata(object.meta_mut());
            trim(object);
        };
        let cache = Cache::new(Box::new(trim), false);
        self.feed(api, config.page_size(PAGE_OF_TENANTS), &cache, Box::new(ours));
        cache
    }

    /// Caches the Secrets named after one of the `owners` and `suffix`, in all namespaces. Watches their metadata, and reads the
    /// content of a Secret once for each version if its owner exists. So Secrets that others create with the same labels cost
    /// next to nothing. `trim` drops the fields that are not needed.
    pub fn cache_secrets<O: Object>(
        &self,
        config: watcher::Config,
        owners: &Cache<O>,
        suffix: &'static str,
        trim: impl Fn(&mut Secret) + Send + Sync + 'static,
    ) -> Cache<Secret> {
        let trim = move |secret: &mut Secret| {
            bound_metadata(&mut secret.metadata);
            trim(secret);
        };
        let cache = Cache::new(Box::new(trim), false);
        let config = config.page_size(PAGE_OF_TENANTS);
        let (objects, client, report) = (self.objects(), self.client.clone(), self.report_unreadable::<Secret>());
        let watch = secrets::watch(cache.clone(), owners.clone(), suffix, objects, client, config, report);
        self.spawn_watch(&cache, watch);
        cache
    }

    fn start<K: Object>(&self, api: Api<K>, config: watcher::Config, trim: Trim<K>, packed: bool) -> Cache<K> {
        let cache = Cache::new(trim, packed);
        self.feed(api, config.page_size(PAGE), &cache, Box::new(|_| true));
        cache
    }

    fn feed<K: Object>(&self, api: Api<K>, config: watcher::Config, cache: &Cache<K>, ours: Ours) {
        self.spawn_watch(cache, cache.clone().watch(api, config, ours, self.report_unreadable::<K>()));
    }

    /// Reports an object that cannot be decoded, in the log and as an event of the object.
    fn report_unreadable<K: Object>(&self) -> Report {
        let platform = self.clone();
        Box::new(move |head, why| {
            let (kind, namespace, name) = (K::kind(&()), head.namespace.as_deref(), head.name.as_deref());
            warn!(%kind, namespace, name, error = why, "cannot decode the object; leaving it as it is");
            let note = format!(
                "{} cannot read this {kind}: {why}. It is left as it is, with everything that depends on it, until the \
                 field is corrected or a release that reads it is installed",
                platform.name()
            );
            platform.event_at::<K>(head, EventType::Warning, Reason::Unreadable, note);
        })
    }

    fn spawn_watch<K: Object>(&self, cache: &Cache<K>, watch: impl Future<Output = ()> + Send + 'static) {
        self.await_sync(cache);
        let begun = self.shared.begun.clone();
        self.spawn(format!("watch of {}", K::plural(&())), async move {
            begun.cancelled().await;
            watch.await;
        });
    }

    /// Adds a cache for which readiness and the start of controllers wait.
    pub(crate) fn await_sync<K: Object>(&self, cache: &Cache<K>) {
        self.shared.caches.lock().push(Box::new(cache.clone()));
    }

    /// Applies an object, or a part of one, by server-side apply with force. `cache` has the answer at once.
    pub async fn server_side_apply<K: Object>(
        &self,
        cache: &Cache<K>,
        namespace: Option<&str>,
        name: &str,
        object: &serde_json::Value,
    ) -> Result<Arc<K>, Error> {
        let key = Key::new(namespace, name);
        Ok(cache.written(self.objects().server_side_apply(&key, object).await?))
    }

    /// Publishes an event about `object` in the background. If it cannot be published, that is logged.
    pub fn event<K: Object>(&self, object: &K, type_: EventType, reason: impl Into<String>, note: impl Into<String>) {
        self.event_at::<K>(object.meta().clone(), type_, reason, note);
    }

    /// [`Platform::event`] for an object of which only the metadata is known.
    pub(crate) fn event_at<K: Object>(
        &self,
        metadata: ObjectMeta,
        type_: EventType,
        reason: impl Into<String>,
        note: impl Into<String>,
    ) {
        let event = Event {
            type_,
            reason: reason.into(),
            action: "Reconcile".to_owned(),
            note: Some(note.into()),
            related: None,
        };
        let object = PartialObjectMeta::<K> { types: None, metadata, _phantom: std::marker::PhantomData };
        let platform = self.clone();
        tokio::spawn(async move {
            // Expected in a namespace that is being deleted.
            if let Err(error) = platform.shared.events.publish(&object, &event).await {
                debug!(%error, reason = %event.reason, "cannot publish the event");
            }
        });
    }

    /// Runs a task until the process ends. If it ends earlier, for example by a panic, the process ends with an error.
    pub(crate) fn spawn(&self, name: String, task: impl Future<Output = ()> + Send + 'static) {
        let shared = self.shared.clone();
        let task = tokio::spawn(task);
        tokio::spawn(async move {
            let _ = task.await;
            // Fails only while the process ends.
            let _ = shared.failures.send(name);
        });
    }

    /// This replica is not a standby, or no longer.
    pub(crate) fn begin(&self) {
        let _ = self.shared.begun_at.set(Instant::now());
        self.shared.begun.cancel();
    }

    pub(crate) fn objects<K: Object>(&self) -> Objects<K> {
        Objects::new(self.client.clone(), self.name())
    }

    pub(crate) fn metrics(&self) -> &Metrics {
        &self.shared.metrics
    }

    /// The partitions that this replica holds.
    pub(crate) fn partitions(&self) -> &Partitions {
        &self.shared.process.partitions
    }

    pub(crate) fn concurrency(&self) -> u16 {
        self.shared.process.concurrency
    }

    /// The kinds whose caches are not complete yet.
    pub(crate) fn unsynced(&self) -> Vec<String> {
        self.shared.caches.lock().iter().filter(|cache| !cache.is_synced()).map(|cache| cache.kind()).collect()
    }

    /// [`Platform::unsynced`], each with the error of its last request.
    pub(crate) fn missing_lists(&self) -> Vec<String> {
        let caches = self.shared.caches.lock();
        let missing = caches.iter().filter(|cache| !cache.is_synced());
        let explained = missing.map(|cache| match cache.trouble() {
            Some(why) => format!("{} ({why})", cache.kind()),
            None => cache.kind(),
        });
        explained.collect()
    }

    /// How long ago this replica started to work, if its first lists are overdue.
    pub(crate) fn overdue(&self) -> Option<Duration> {
        let working = self.shared.begun_at.get()?.elapsed();
        (working > LIST_OVERDUE).then_some(working)
    }

    /// Adds the number of objects of a controller that are not ready to the metrics.
    pub(crate) fn count_unready(&self, controller: &'static str, count: impl Fn() -> Counts + Send + Sync + 'static) {
        self.shared.unready.lock().push((controller, Box::new(count)));
    }

    /// The metrics as text.
    pub(crate) fn encode_metrics(&self) -> Result<String, std::fmt::Error> {
        let overdue = self.overdue().is_some();
        let mut kinds: BTreeMap<String, (usize, bool)> = BTreeMap::new();
        for cache in &*self.shared.caches.lock() {
            let (unreadable, missing) = kinds.entry(cache.kind()).or_default();
            *unreadable += cache.unreadable();
            *missing |= overdue && !cache.is_synced();
        }
        self.metrics().observe_caches(kinds);
        for (controller, count) in &*self.shared.unready.lock() {
            self.metrics().observe_unready(controller, count());
        }
        self.metrics().encode()
    }

    /// Returns when every cache of the process is complete.
    pub(crate) async fn synced(&self) {
        while !self.unsynced().is_empty() {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }
}

/// Drops large metadata of an object that tenants can write. The next write by the object's controller replaces it.
fn bound_metadata(meta: &mut ObjectMeta) {
    let texts = [&meta.labels, &meta.annotations].into_iter().flatten().flatten();
    let texts: usize = texts.map(|(key, value)| key.len() + value.len()).sum();
    let finalizers: usize = meta.finalizers.iter().flatten().map(String::len).sum();
    let owners: usize = meta.owner_references.iter().flatten().map(|owner| owner.name.len() + owner.uid.len()).sum();
    if texts + finalizers + owners > MAX_METADATA_BYTES {
        (meta.labels, meta.annotations, meta.finalizers) = (None, None, None);
        meta.owner_references.iter_mut().for_each(|owners| owners.retain(|owner| owner.controller == Some(true)));
    }
}
