//! What wakes an object, and the queue that turns many wakings into one pass.

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

use crate::cache::{Cache, Key};
use crate::error::{Class, Error};
use crate::owned::{Owned, Ownership};
use crate::pass::{Full, Pass, Plain};
use crate::platform::Platform;
use crate::queue::Queue;
use crate::reconciler::{PlainReconciler, Reconciler};
use crate::requeue;
use crate::unready::Unready;

/// The bound of a pass. A pass that hangs would keep its object, and a slot, for ever.
const PASS_TIMEOUT: Duration = Duration::from_secs(120);

/// A controller that is ready to run: something for [`run`](crate::run()) to do while it holds the lease.
pub struct Runnable {
    pub(crate) name: String,
    pub(crate) future: BoxFuture<'static, ()>,
    /// How long it may go on after the process is told to stop.
    pub(crate) patience: Duration,
    /// A controller, which passes over what is not this replica's.
    pub(crate) divisible: bool,
}

/// How long passes that run may go on after SIGTERM; below the 30 seconds Kubernetes gives.
const STOP_TIMEOUT: Duration = Duration::from_secs(20);

impl Runnable {
    /// A background task of an operator, such as a sweep. It is to end when [`Platform::shutdown`] is
    /// cancelled; should it end earlier, the process ends with it.
    pub fn task(name: impl Into<String>, future: impl Future<Output = ()> + Send + 'static) -> Self {
        Runnable { name: name.into(), future: future.boxed(), patience: STOP_TIMEOUT, divisible: false }
    }

    /// How long it may go on after the process is told to stop, instead of 20 seconds; the pod's
    /// `terminationGracePeriodSeconds` must be longer.
    #[must_use]
    pub fn stop_within(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }
}

/// Connects a reconciler with what should wake its objects.
pub struct Controller<K: Object> {
    platform: Platform,
    cache: Cache<K>,
    queue: Arc<Queue>,
    concurrency: u16,
    timeout: Duration,
}

impl<K: Object> Controller<K> {
    /// A controller for the objects in `cache`. It is woken by changes of spec, labels, annotations, finalizers and
    /// deletion, and not by status.
    pub fn new(platform: &Platform, cache: &Cache<K>) -> Self {
        let queue = Arc::new(Queue::new(platform.partitions()));
        let listener = queue.clone();
        cache.listen(move |change| listener.primary(change));
        let concurrency = platform.concurrency();
        Controller { platform: platform.clone(), cache: cache.clone(), queue, concurrency, timeout: PASS_TIMEOUT }
    }

    /// Wakes the owner of a child that has changed, by others' hands: the pass that wrote a child has seen the answer.
    pub fn owns<C: Object>(self, owned: &Owned<C>) -> Self {
        let (queue, ownership) = (self.queue.clone(), owned.ownership().clone());
        owned.cache().listen(move |change| {
            // Whoever removes the owner reference of a child does not keep its owner from putting it back.
            if let Some(owner) = change.before.as_ref().and_then(|before| owner_of::<K, C>(&ownership, before)) {
                queue.wake(owner);
            }
            // That it is gone is news to a pass of ours, too: the one that deleted it went by what was there before.
            if (!change.echo || change.gone)
                && let Some(owner) = owner_of::<K, C>(&ownership, &change.object)
            {
                queue.wake(owner);
            }
        });
        self
    }

    /// Wakes the objects that `map` names when an object in `cache` has changed or is gone.
    pub fn watches<O: Object, I>(self, cache: &Cache<O>, map: impl Fn(&O) -> I + Send + Sync + 'static) -> Self
    where
        I: IntoIterator<Item = ObjectRef<K>>,
    {
        let queue = self.queue.clone();
        cache.listen(move |change| {
            for object in map(&change.object) {
                queue.wake(Key::new(object.namespace.as_deref(), &object.name));
            }
        });
        self
    }

    /// Requests reconciles of objects by name, after changes that no watch reports, such as what a sweep has found.
    pub fn trigger(&self) -> Trigger<K> {
        Trigger { queue: self.queue.clone(), kind: PhantomData }
    }

    /// How many objects are looked at at once, instead of the process's `--concurrency`.
    pub fn concurrency(mut self, concurrency: u16) -> Self {
        self.concurrency = concurrency.max(1);
        self
    }

    /// How long a pass may take before it counts as failed; 2 minutes if nothing is said.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Ready to run.
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
        let pass = Full {
            unready,
            platform: self.platform.clone(),
            cache: self.cache.clone(),
            queue: self.queue.clone(),
            objects: self.platform.objects(),
            reconciler,
        };
        self.drive(pass)
    }

    /// Ready to run, for a kind whose status is not ours.
    pub fn run_plain<R: PlainReconciler<Kind = K>>(self, reconciler: R) -> Runnable {
        self.drive(Plain(reconciler))
    }

    fn drive<P: Pass<K>>(self, pass: P) -> Runnable {
        let Controller { platform, cache, queue, concurrency, timeout } = self;
        let worker = Arc::new(Worker { platform, cache, queue, timeout, pass });
        let future = async move {
            let Worker { platform, cache, queue, .. } = &*worker;
            platform.synced().await;
            let (gaining, objects) = (queue.clone(), cache.clone());
            platform.partitions().on_gain(move |partition| gaining.gained(partition, &objects));
            queue.start(cache);
            let mut passes = JoinSet::new();
            loop {
                tokio::select! {
                    () = platform.shutdown().cancelled() => break,
                    Some(pass) = passes.join_next() => done(queue, pass),
                    key = queue.next(), if passes.len() < usize::from(concurrency) => {
                        let worker = worker.clone();
                        passes.spawn(async move {
                            let again = worker.work(&key).await;
                            (key, again)
                        });
                    }
                }
            }
            // Those that run are finished.
            while let Some(pass) = passes.join_next().await {
                done(queue, pass);
            }
        };
        let name = format!("the controller {}", P::NAME);
        Runnable { name, future: future.boxed(), patience: STOP_TIMEOUT, divisible: true }
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
        self.queue.wake(Key::new(object.namespace.as_deref(), &object.name));
    }
}

fn done(queue: &Queue, pass: Result<(Key, Option<Duration>), JoinError>) {
    match pass {
        Ok((key, again)) => queue.done(key, again),
        // The reconcilers' panics are caught; this one is of what is around them, and nothing to go on with.
        Err(error) => {
            if let Ok(panic) = error.try_into_panic() {
                std::panic::resume_unwind(panic)
            }
        }
    }
}

/// The object of kind `K` that a child says it belongs to.
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
    // A cluster-scoped owner has no namespace, whatever its child's is. To the queue "a" and "a in b" are two
    // objects, and there would be two passes over one Customer at once.
    let namespace = meta.namespace.as_deref().filter(|_| !K::cluster_scoped());
    Some(Key::new(namespace, name))
}

/// Runs passes and decides what follows from how they end.
struct Worker<K: Object, P> {
    platform: Platform,
    cache: Cache<K>,
    queue: Arc<Queue>,
    timeout: Duration,
    pass: P,
}

impl<K: Object, P: Pass<K>> Worker<K, P> {
    /// `None`: it is another replica's. It is looked at again when it has become ours.
    async fn work(&self, key: &Key) -> Option<Duration> {
        let _permit = self.queue.enter(key)?;
        // Its last readable version is not what it is now.
        if self.cache.is_unreadable(&key.namespace, &key.name) {
            return Some(requeue::resync());
        }
        // Deleted by ourselves; the watch does not know yet.
        let Some(object) = self.cache.lookup(key) else { return Some(requeue::resync()) };
        self.platform.metrics().begun(P::NAME, self.queue.len());
        let (namespace, name) = (&key.namespace, &key.name);
        let span = info_span!(parent: None, "reconcile", controller = P::NAME, %namespace, %name);
        Some(self.attend(object).instrument(span).await)
    }

    async fn attend(&self, object: Arc<K>) -> Duration {
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
                let attempt = self.queue.failures.count(&uid, class);
                let delay = requeue::after_error(class, attempt);
                self.platform.metrics().failed(P::NAME, class.as_str());
                match class {
                    Class::Waiting | Class::Conflict => debug!(%error, class = class.as_str(), ?delay, "not yet"),
                    _ => warn!(%error, class = class.as_str(), ?delay, "failed"),
                }
                self.pass.report(&object, &error, attempt > 0).await;
                (delay, if class == Class::Waiting { "waiting" } else { "failed" })
            }
        };
        self.platform.metrics().passed(P::NAME, outcome, started.elapsed());
        delay
    }

    /// A pass that hangs or panics fails, and takes nothing else with it.
    async fn guarded(&self, object: Arc<K>) -> Result<Duration, Error> {
        let pass = AssertUnwindSafe(self.pass.pass(object)).catch_unwind();
        match tokio::time::timeout(self.timeout, pass).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => Err(Error::Other(anyhow::anyhow!("the reconciler panicked; its log says where"))),
            Err(_) => Err(Error::Timeout),
        }
    }
}
