//! One reconcile of one object: the finalizer, the reconciler, the status.

use std::sync::Arc;
use std::time::Duration;

use ahoi_api::Conditioned;
use kube::{Resource, ResourceExt};
use tracing::{debug, info};

use crate::cache::{Cache, Key};
use crate::conditions::{self, READY, STALLED, Verdict};
use crate::error::{Class, Error};
use crate::objects::Objects;
use crate::platform::{EventType, Platform};
use crate::queue::Queue;
use crate::reconciler::{PlainReconciler, Reconciler, Transition};
use crate::requeue;
use crate::unready::Unready;

/// One reconcile. It returns the delay until the next one.
pub(crate) trait Attempt<K>: Send + Sync + 'static {
    const NAME: &'static str;
    fn reconcile(&self, object: Arc<K>) -> impl Future<Output = Result<Duration, Error>> + Send;
    /// Reports the error in the object. `again`: the reconcile before failed with the same class.
    fn report(&self, object: &K, error: &Error, again: bool) -> impl Future<Output = ()> + Send;
}

/// For objects whose status is ours.
pub(crate) struct WithStatus<R: Reconciler> {
    pub(crate) platform: Platform,
    pub(crate) cache: Cache<R::Kind>,
    pub(crate) queue: Arc<Queue>,
    pub(crate) objects: Objects<R::Kind>,
    pub(crate) reconciler: R,
    pub(crate) unready: Arc<Unready>,
}

impl<R: Reconciler> Attempt<R::Kind> for WithStatus<R> {
    const NAME: &'static str = R::NAME;

    async fn reconcile(&self, object: Arc<R::Kind>) -> Result<Duration, Error> {
        let key = Key::of(&*object);
        let delay = self.attempt(object).await;
        self.observe(&key);
        delay
    }

    async fn report(&self, object: &R::Kind, error: &Error, again: bool) {
        self.set_error(object, error, again).await;
        self.observe(&Key::of(object));
    }
}

impl<R: Reconciler> WithStatus<R> {
    /// Updates the metrics of objects that are not ready.
    fn observe(&self, key: &Key) {
        if let Some(now) = self.cache.lookup(key) {
            self.unready.observe(&*now);
        }
    }

    async fn attempt(&self, object: Arc<R::Kind>) -> Result<Duration, Error> {
        if object.meta().deletion_timestamp.is_some() {
            self.finalize(&object).await?;
            // An event follows when the object disappears.
            return Ok(requeue::resync());
        }
        let object = self.with_finalizer(object).await?;
        let progress = self.reconciler.reconcile(&object).await?;
        let delay = progress.requeue.unwrap_or_else(requeue::resync);
        self.write_status(&object, progress.status).await?;
        Ok(delay)
    }

    async fn set_error(&self, object: &R::Kind, error: &Error, again: bool) {
        // The first failure is retried within a second and rarely repeats; a status for it would trigger every parent twice.
        if error.class() == Class::Conflict || (error.class() == Class::Transient && !again) {
            return;
        }
        // The reconcile may have written a finalizer or a status. Of another generation, or of another object of that name, the
        // error says nothing.
        let (uid, generation) = (&object.meta().uid, object.meta().generation);
        let same = |now: &Arc<R::Kind>| now.meta().uid == *uid && now.meta().generation == generation;
        let Some(object) = self.cache.lookup(&Key::of(object)).filter(same) else { return };
        let mut status = object.status().cloned().unwrap_or_default();
        conditions::set_verdict(R::Kind::conditions_mut(&mut status), generation, Verdict::from(error));
        if let Err(error) = self.write_status(&object, status).await {
            debug!(%error, "cannot write the status; the next reconcile retries");
        }
    }

    async fn with_finalizer(&self, object: Arc<R::Kind>) -> Result<Arc<R::Kind>, Error> {
        let Some(finalizer) = R::FINALIZER else { return Ok(object) };
        if object.finalizers().iter().any(|present| present == finalizer) {
            return Ok(object);
        }
        let mut finalizers = object.finalizers().to_vec();
        finalizers.push(finalizer.to_owned());
        let object = self.objects.set_finalizers(&*object, &finalizers).await?;
        // This reconcile continues with the answer and needs no other.
        self.queue.observe(&object);
        Ok(self.cache.written(object))
    }

    async fn finalize(&self, object: &R::Kind) -> Result<(), Error> {
        let finalizers = object.finalizers();
        let Some(finalizer) = R::FINALIZER.filter(|ours| finalizers.iter().any(|present| present == ours)) else {
            return Ok(());
        };
        self.reconciler.cleanup(object).await?;
        let rest: Vec<String> = finalizers.iter().filter(|present| *present != finalizer).cloned().collect();
        let object = match self.objects.set_finalizers(object, &rest).await {
            Err(Error::Kube(kube::Error::Api(status))) if status.code == 404 => return Ok(()),
            answer => answer?,
        };
        info!("cleaned up");
        if rest.is_empty() {
            self.cache.deleted(&object);
        } else {
            self.cache.written(object);
        }
        Ok(())
    }

    /// Writes the status if it differs, and publishes events about transitions. An unchanged status does not update
    /// `observedGeneration` either.
    async fn write_status(&self, object: &R::Kind, mut status: StatusOf<R>) -> Result<(), Error> {
        if *object.status().unwrap_or(&StatusOf::<R>::default()) == status {
            return Ok(());
        }
        *R::Kind::observed_generation_mut(&mut status) = object.meta().generation;
        let old = object.status().map(R::Kind::conditions).unwrap_or_default();
        conditions::shorten(R::Kind::conditions_mut(&mut status));
        conditions::keep_history(old, R::Kind::conditions_mut(&mut status));
        // Unchanged, or already written during the reconcile.
        let now = self.cache.lookup(&Key::of(object));
        if object.status() == Some(&status) || now.is_some_and(|now| now.status() == Some(&status)) {
            return Ok(());
        }
        match self.objects.set_status(object, &status).await {
            // Deleted, or recreated.
            Err(Error::Kube(kube::Error::Api(answer))) if answer.code == 404 => return Ok(()),
            answer => self.cache.written(answer?),
        };
        self.record_events(object, old, R::Kind::conditions(&status));
        for Transition { type_, reason, note } in self.reconciler.transitions(object, object.status(), &status) {
            self.platform.event(object, type_, reason, note);
        }
        Ok(())
    }

    /// Publishes an event when an object becomes Stalled, and when it recovers. There is none when an object becomes ready for the
    /// first time: its condition says so, and the event would cost a request for each object.
    fn record_events(&self, object: &R::Kind, old: &[conditions::Condition], new: &[conditions::Condition]) {
        let find = |conditions, type_| conditions::find(conditions, type_).filter(|found| found.status == "True");
        if let (None, Some(ready)) = (find(old, READY), find(new, READY)) {
            info!(message = %ready.message, "ready");
        }
        if let (Some(_), None, Some(ready)) = (find(old, STALLED), find(new, STALLED), find(new, READY)) {
            self.platform.event(object, EventType::Normal, READY, &ready.message);
        }
        if let Some(stalled) = find(new, STALLED)
            && find(old, STALLED).is_none_or(|before| before.reason != stalled.reason)
        {
            self.platform.event(object, EventType::Warning, &stalled.reason, &stalled.message);
        }
    }
}

type StatusOf<R> = <<R as Reconciler>::Kind as Conditioned>::Status;

/// For objects whose status is not ours.
pub(crate) struct WithoutStatus<R>(pub(crate) R);

impl<R: PlainReconciler> Attempt<R::Kind> for WithoutStatus<R> {
    const NAME: &'static str = R::NAME;

    async fn reconcile(&self, object: Arc<R::Kind>) -> Result<Duration, Error> {
        Ok(self.0.reconcile(&object).await?.unwrap_or_else(requeue::resync))
    }

    async fn report(&self, _: &R::Kind, _: &Error, _: bool) {}
}
