//! What every controller of a process shares.

use std::sync::Arc;

use k8s_controller::events::{Event, EventRecorder, Reporter};
use kube::runtime::watcher;
use kube::{Api, Client};
use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::debug;

pub use k8s_controller::events::EventType;

use crate::cache::{Cache, Trim};
use crate::error::Error;
use crate::metrics::{Metrics, Requests};
use crate::objects::Objects;
use crate::reconciler::{Conditioned, Object};
use crate::shards::Shards;

/// The group of the suite's kinds, and the prefix of its annotations and finalizers.
pub const GROUP: &str = "internal.example.com";

/// How many objects come with one answer to a list. A page is in memory as a whole, as text and as objects, with much that
/// is not kept.
const PAGE: u32 = 100;

/// What every controller of a process shares. Cheap to clone.
#[derive(Clone)]
pub struct Platform {
    /// The client, with its calls bounded and counted.
    pub client: Client,
    shared: Arc<Shared>,
}

/// What a process is told about itself.
pub(crate) struct Process {
    pub(crate) name: String,
    pub(crate) instance: String,
    pub(crate) namespace: String,
    pub(crate) concurrency: u16,
    pub(crate) shards: Shards,
}

struct Shared {
    process: Process,
    events: EventRecorder,
    metrics: Metrics,
    /// Cancelled when this process begins to work: a standby watches nothing.
    begun: CancellationToken,
    shutdown: CancellationToken,
    caches: Mutex<Vec<Gate>>,
    conditions: Mutex<Vec<Gate>>,
    failures: mpsc::UnboundedSender<String>,
}

/// Something to be waited for.
struct Gate {
    what: String,
    is_open: Box<dyn Fn() -> bool + Send + Sync>,
}

impl Platform {
    /// `failures` hears the names of tasks that stopped although nobody told them to.
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
            shutdown: CancellationToken::new(),
            caches: Mutex::default(),
            conditions: Mutex::default(),
            failures,
        };
        Platform { client, shared: Arc::new(shared) }
    }

    /// The name of the process, which is its field manager, too: "ahoi-customer".
    pub fn name(&self) -> &str {
        &self.shared.process.name
    }

    /// The replica; the pod's name in a cluster.
    pub fn instance(&self) -> &str {
        &self.shared.process.instance
    }

    /// The namespace the process runs in, which is the suite's own.
    pub fn namespace(&self) -> &str {
        &self.shared.process.namespace
    }

    /// For an operator whose work cannot be divided among replicas: an error that says `why`, if it is told to
    /// (`--shards`). Such is what decides by what is in its memory alone.
    pub fn undivided(&self, why: &str) -> anyhow::Result<()> {
        anyhow::ensure!(self.shards().count() == 1, "{} runs with --shards=1 only: {why}", self.name());
        Ok(())
    }

    /// Cancelled when the process is told to stop.
    pub fn shutdown(&self) -> &CancellationToken {
        &self.shared.shutdown
    }

    /// Writes a status in the middle of a pass: a name before what bears it is created, a step of a cleanup. The answer
    /// is the object with it, and `cache` knows it at once. At the end of a pass the reconciler just returns it.
    pub async fn write_status<K: Conditioned>(
        &self,
        cache: &Cache<K>,
        object: &K,
        status: &K::Status,
    ) -> Result<Arc<K>, Error> {
        Ok(cache.written(self.objects().set_status(object, status).await?))
    }

    /// Makes `/readyz` wait for more than the caches. `what`, for people, completes "waiting for".
    pub fn ready_if(&self, what: &'static str, is_met: impl Fn() -> bool + Send + Sync + 'static) {
        self.shared.conditions.lock().push(Gate { what: what.to_owned(), is_open: Box::new(is_met) });
    }

    /// What of [`Platform::ready_if`] is not met.
    pub(crate) fn unmet(&self) -> Vec<String> {
        closed(&self.shared.conditions)
    }

    /// Registers an operator's own metrics. Labels must be bounded: never an object's name.
    pub fn register(&self, register: impl FnOnce(&mut Registry)) {
        register(&mut self.metrics().registry.lock());
    }

    /// Watches the objects of one kind and keeps them in memory, from when this process begins to work: what each standby
    /// watches costs the API server as much as what is watched by whoever works, and memory, too.
    ///
    /// Use `PartialObjectMeta<K>` where the metadata is enough. Where the CRD is not there yet the cache keeps trying.
    pub fn cache<K: Object>(&self, api: Api<K>, config: watcher::Config) -> Cache<K> {
        self.start(api, config, Box::new(|_| ()), false)
    }

    /// The same, kept as text in much less memory, for kinds of which a customer has one or two and a pass reads those.
    /// Each read parses the text, so [`Cache::all`] is not for such.
    pub fn cache_packed<K: Object>(&self, api: Api<K>, config: watcher::Config) -> Cache<K> {
        self.start(api, config, Box::new(|_| ()), true)
    }

    /// The same, dropping from each object what nobody reads, as the data of Secrets.
    pub fn cache_trimmed<K: Object>(
        &self,
        api: Api<K>,
        config: watcher::Config,
        trim: impl Fn(&mut K) + Send + Sync + 'static,
    ) -> Cache<K> {
        self.start(api, config, Box::new(trim), false)
    }

    fn start<K: Object>(&self, api: Api<K>, config: watcher::Config, trim: Trim<K>, packed: bool) -> Cache<K> {
        let cache = Cache::new(trim, packed);
        let config = config.page_size(PAGE);
        self.await_sync(&cache);
        let (begun, watch) = (self.shared.begun.clone(), cache.clone().watch(api, config));
        self.spawn(format!("the watch of {}", K::plural(&())), async move {
            begun.cancelled().await;
            watch.await;
        });
        cache
    }

    /// Makes readiness and the start of controllers wait for the cache.
    pub(crate) fn await_sync<K: Object>(&self, cache: &Cache<K>) {
        let (what, cache) = (K::kind(&()).into_owned(), cache.clone());
        self.shared.caches.lock().push(Gate { what, is_open: Box::new(move || cache.is_synced()) });
    }

    /// Publishes an event about `object`, in the background: an event that cannot be published is logged, and
    /// changes nothing else.
    pub fn event<K: Object>(&self, object: &K, type_: EventType, reason: impl Into<String>, note: impl Into<String>) {
        let event = Event {
            type_,
            reason: reason.into(),
            action: "Reconcile".to_owned(),
            note: Some(note.into()),
            related: None,
        };
        let (platform, object) = (self.clone(), object.clone());
        tokio::spawn(async move {
            // Expected at times: nothing may be created in a namespace that is going.
            if let Err(error) = platform.shared.events.publish(&object, &event).await {
                debug!(%error, reason = %event.reason, "the event was not published");
            }
        });
    }

    /// Runs a task for as long as the process. That it ends earlier, by a panic for example, is the end of
    /// the process: half a controller is worse than none.
    pub(crate) fn spawn(&self, name: String, task: impl Future<Output = ()> + Send + 'static) {
        let shared = self.shared.clone();
        let task = tokio::spawn(task);
        tokio::spawn(async move {
            let _ = task.await;
            // Nobody listens any more when the process is about to end anyway.
            let _ = shared.failures.send(name);
        });
    }

    /// This process is not, or no longer, a standby.
    pub(crate) fn begin(&self) {
        self.shared.begun.cancel();
    }

    pub(crate) fn objects<K: Object>(&self) -> Objects<K> {
        Objects::new(self.client.clone(), self.name())
    }

    pub(crate) fn metrics(&self) -> &Metrics {
        &self.shared.metrics
    }

    /// What of the work is this replica's.
    pub(crate) fn shards(&self) -> &Shards {
        &self.shared.process.shards
    }

    pub(crate) fn concurrency(&self) -> u16 {
        self.shared.process.concurrency
    }

    /// The kinds whose caches are not complete yet.
    pub(crate) fn unsynced(&self) -> Vec<String> {
        closed(&self.shared.caches)
    }

    /// Returns when every cache of the process is complete.
    pub(crate) async fn synced(&self) {
        while !self.unsynced().is_empty() {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }
}

fn closed(gates: &Mutex<Vec<Gate>>) -> Vec<String> {
    gates.lock().iter().filter(|gate| !(gate.is_open)()).map(|gate| gate.what.clone()).collect()
}
