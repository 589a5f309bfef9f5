//! What triggers reconciles, and the loop that runs them.

use std::marker::PhantomData;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ahoi_api::{Conditioned, Object};
use futures::FutureExt;
use futures::future::BoxFuture;
use k8s_openapi::jiff::Timestamp;
use kube::runtime::reflector::ObjectRef;
use tokio::task::{JoinError, JoinSet};
use tracing::{Instrument, debug, info_span, warn};

use crate::attempt::{Attempt, WithStatus, WithoutStatus};
use crate::cache::{Cache, Key};
use crate::error::{Class, Error};
use crate::owned::{Owned, Ownership};
use crate::platform::Platform;
use crate::queue::Queue;
use crate::reconciler::{PlainReconciler, Reconciler};
use crate::requeue;
use crate::unready::Unready;

/// How long a reconcile may take. One that hangs would block its object and a slot forever.
const RECONCILE_TIMEOUT: Duration = Duration::from_secs(120);

/// A controller or a task that [`run`](crate::run()) runs while this replica holds the Lease.
pub struct Runnable {
    pub(crate) name: String,
    pub(crate) future: BoxFuture<'static, ()>,
    /// How long it may continue after SIGTERM.
    pub(crate) stop_timeout: Duration,
    /// Whether it is a controller, which skips objects in other replicas' partitions.
    pub(crate) divisible: bool,
}

/// How long running reconciles may continue after SIGTERM; less than the 30 seconds after which Kubernetes sends SIGKILL.
const STOP_TIMEOUT: Duration = Duration::from_secs(20);

impl Runnable {
    /// A background task, such as a sweep. It ends when [`Platform::shutdown`] is cancelled; if it ends earlier, the process ends
    /// with an error.
    pub fn task(name: impl Into<String>, future: impl Future<Output = ()> + Send + 'static) -> Self {
        Runnable { name: name.into(), future: future.boxed(), stop_timeout: STOP_TIMEOUT, divisible: false }
    }

    /// Sets how long it may continue after SIGTERM. Default: 20 seconds. The pod's `terminationGracePeriodSeconds` must be longer.
    #[must_use]
    pub fn stop_within(mut self, timeout: Duration) -> Self {
        self.stop_timeout = timeout;
        self
    }
}

/// Connects a reconciler with the events that trigger it.
pub struct Controller<K: Object> {
    platform: Platform,
    cache: Cache<K>,
    queue: Arc<Queue>,
    concurrency: u16,
    timeout: Duration,
}

impl<K: Object> Controller<K> {
    /// A controller for the objects in `cache`. Changes of spec, labels, annotations and finalizers and deletions trigger a
    /// reconcile; changes of the status do not.
    pub fn new(platform: &Platform, cache: &Cache<K>) -> Self {
        let queue = Arc::new(Queue::new(platform.partitions()));
        let listener = queue.clone();
        cache.listen(move |change| listener.primary(change));
        let concurrency = platform.concurrency();
        Controller { platform: platform.clone(), cache: cache.clone(), queue, concurrency, timeout: RECONCILE_TIMEOUT }
    }

    /// Triggers the owner of a child that another client has changed. The reconcile that wrote a child has seen the answer.
    pub fn owns<C: Object>(self, owned: &Owned<C>) -> Self {
        let (queue, ownership) = (self.queue.clone(), owned.ownership().clone());
        owned.cache().listen(move |change| {
            // A removed owner reference still triggers the former owner, which restores it.
            if let Some(owner) = change.before.as_ref().and_then(|before| owner_of::<K, C>(&ownership, before)) {
                queue.trigger(owner);
            }
            // The owner also waits for the end of a child that it deleted itself.
            if (!change.echo || change.gone)
                && let Some(owner) = owner_of::<K, C>(&ownership, &change.object)
            {
                queue.trigger(owner);
            }
        });
        self
    }

    /// Triggers the objects that `map` names when an object in `cache` changes or is deleted.
    pub fn watches<O: Object, I>(self, cache: &Cache<O>, map: impl Fn(&O) -> I + Send + Sync + 'static) -> Self
    where
        I: IntoIterator<Item = ObjectRef<K>>,
    {
        let queue = self.queue.clone();
        cache.listen(move |change| {
            for object in map(&change.object) {
                queue.trigger(Key::new(object.namespace.as_deref(), &object.name));
            }
        });
        self
    }

    /// Requests reconciles of objects by name, after changes that no watch reports, such as what a sweep has found.
    pub fn trigger(&self) -> Trigger<K> {
        Trigger { queue: self.queue.clone(), kind: PhantomData }
    }

    /// Sets how many objects are reconciled at once, instead of the process's `--concurrency`.
    pub fn concurrency(mut self, concurrency: u16) -> Self {
        self.concurrency = concurrency.max(1);
        self
    }

    /// Sets how long a reconcile may take before it counts as failed. Default: 2 minutes.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Starts the controller when the caches of the process are complete.
    pub fn run<R: Reconciler<Kind = K>>(self, reconciler: R) -> Runnable
    where
        K: Conditioned,
    {
        let unready = Arc::new(Unready::default());
        let (gone, counted, queue) = (unready.clone(), unready.clone(), self.queue.clone());
        self.cache.listen(move |change| {
            if change.gone {
                gone.forget(&Key::of(&*change.object));
            }
        });
        self.platform.count_unready(R::NAME, move || counted.count(|key| queue.is_ours(key), Timestamp::now()));
        let attempt = WithStatus {
            unready,
            platform: self.platform.clone(),
            cache: self.cache.clone(),
            queue: self.queue.clone(),
            objects: self.platform.objects(),
            reconciler,
        };
        self.drive(attempt)
    }

    /// [`Controller::run`] for a kind whose status is not ours.
    pub fn run_plain<R: PlainReconciler<Kind = K>>(self, reconciler: R) -> Runnable {
        self.drive(WithoutStatus(reconciler))
    }

    fn drive<A: Attempt<K>>(self, attempt: A) -> Runnable {
        let Controller { platform, cache, queue, concurrency, timeout } = self;
        let worker = Arc::new(Worker { platform, cache, queue, timeout, attempt });
        let future = async move {
            let Worker { platform, cache, queue, .. } = &*worker;
            platform.synced().await;
            let (gaining, objects) = (queue.clone(), cache.clone());
            platform.partitions().on_gain(move |partition| gaining.gained(partition, &objects));
            queue.start(cache);
            let mut reconciles = JoinSet::new();
            loop {
                tokio::select! {
                    () = platform.shutdown().cancelled() => break,
                    Some(ended) = reconciles.join_next() => done(queue, ended),
                    key = queue.next(), if reconciles.len() < usize::from(concurrency) => {
                        let worker = worker.clone();
                        reconciles.spawn(async move {
                            let again = worker.work(&key).await;
                            (key, again)
                        });
                    }
                }
            }
            while let Some(ended) = reconciles.join_next().await {
                done(queue, ended);
            }
        };
        let name = format!("the controller {}", A::NAME);
        Runnable { name, future: future.boxed(), stop_timeout: STOP_TIMEOUT, divisible: true }
    }
}

/// Requests reconciles, see [`Controller::trigger`].
pub struct Trigger<K: Object> {
    queue: Arc<Queue>,
    kind: PhantomData<fn(K)>,
}

impl<K: Object> Trigger<K> {
    /// Requests a reconcile of the object.
    pub fn request(&self, object: &ObjectRef<K>) {
        self.queue.trigger(Key::new(object.namespace.as_deref(), &object.name));
    }
}

fn done(queue: &Queue, ended: Result<(Key, Option<Duration>), JoinError>) {
    match ended {
        Ok((key, again)) => queue.done(key, again),
        // Panics of reconcilers are caught; this one is a bug in this crate.
        Err(error) => {
            if let Ok(panic) = error.try_into_panic() {
                std::panic::resume_unwind(panic)
            }
        }
    }
}

/// The owner of kind `K` that a child refers to.
fn owner_of<K: Object, C: Object>(ownership: &Ownership, child: &C) -> Option<Key> {
    let meta = child.meta();
    let name = match ownership {
        Ownership::Controller => {
            let owner = meta.owner_references.iter().flatten().find(|owner| owner.controller == Some(true))?;
            let group = owner.api_version.rsplit_once('/').map_or("", |(group, _)| group);
            (group == K::group(&()) && owner.kind == K::kind(&())).then_some(&owner.name)?
        }
        Ownership::Label { key } => meta.labels.as_ref()?.get(key)?,
    };
    // A cluster-scoped owner has no namespace. With its child's, it would be in the queue twice and be reconciled twice at once.
    let namespace = meta.namespace.as_deref().filter(|_| !K::cluster_scoped());
    Some(Key::new(namespace, name))
}

/// Runs reconciles, and decides when the next one follows.
struct Worker<K: Object, A> {
    platform: Platform,
    cache: Cache<K>,
    queue: Arc<Queue>,
    timeout: Duration,
    attempt: A,
}

impl<K: Object, A: Attempt<K>> Worker<K, A> {
    /// `None`: the object is in another replica's partition. A reconcile follows if this replica takes the partition.
    async fn work(&self, key: &Key) -> Option<Duration> {
        let _permit = self.queue.enter(key)?;
        // The cache has its last version that could be decoded, which is outdated.
        if self.cache.is_unreadable(&key.namespace, &key.name) {
            return Some(requeue::resync());
        }
        // We deleted it, and the watch has not delivered that yet.
        let Some(object) = self.cache.lookup(key) else { return Some(requeue::resync()) };
        self.platform.metrics().begun(A::NAME, self.queue.len());
        let (namespace, name) = (&key.namespace, &key.name);
        let span = info_span!(parent: None, "reconcile", controller = A::NAME, %namespace, %name);
        Some(self.reconcile(object).instrument(span).await)
    }

    async fn reconcile(&self, object: Arc<K>) -> Duration {
        let started = Instant::now();
        let uid = object.meta().uid.clone().unwrap_or_default();
        let outcome = self.guarded(object.clone()).await;
        let (delay, outcome) = match outcome {
            Ok(delay) => {
                self.queue.failures.forget(&uid);
                (delay, "done")
            }
            Err(error) => {
                let class = error.class();
                let failures = self.queue.failures.count(&uid, class);
                let delay = requeue::after_error(class, failures);
                self.platform.metrics().failed(A::NAME, class.as_str());
                match class {
                    Class::Waiting | Class::Conflict => debug!(%error, class = class.as_str(), ?delay, "not yet"),
                    _ => warn!(%error, class = class.as_str(), ?delay, "failed"),
                }
                self.attempt.report(&object, &error, failures > 0).await;
                (delay, if class == Class::Waiting { "waiting" } else { "failed" })
            }
        };
        self.platform.metrics().ended(A::NAME, outcome, started.elapsed());
        delay
    }

    /// A reconcile that hangs or panics fails, and nothing else fails with it.
    async fn guarded(&self, object: Arc<K>) -> Result<Duration, Error> {
        let attempt = AssertUnwindSafe(self.attempt.reconcile(object)).catch_unwind();
        match tokio::time::timeout(self.timeout, attempt).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => Err(Error::Other(anyhow::anyhow!("the reconciler panicked; the log has the location"))),
            Err(_) => Err(Error::Timeout),
        }
    }
}
