//! One pass over one object: the finalizer, the reconciler, the status.

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
use crate::unready::Unready;

/// What a controller does about one object. The answer is when to look again.
pub(crate) trait Pass<K>: Send + Sync + 'static {
    const NAME: &'static str;
    /// `attempt`: how many passes over this object failed transiently in a row before this one.
    fn pass(&self, object: Arc<K>) -> impl Future<Output = Result<Duration, Error>> + Send;
    /// Says in the object what went wrong. `again`: the pass before failed in the same way.
    fn report(&self, object: &K, error: &Error, again: bool) -> impl Future<Output = ()> + Send;
}

/// A pass over an object whose status is ours.
pub(crate) struct Full<R: Reconciler> {
    pub(crate) platform: Platform,
    pub(crate) cache: Cache<R::Kind>,
    pub(crate) queue: Arc<Queue>,
    pub(crate) objects: Objects<R::Kind>,
    pub(crate) reconciler: R,
    pub(crate) unready: Arc<Unready>,
}

impl<R: Reconciler> Pass<R::Kind> for Full<R> {
    const NAME: &'static str = R::NAME;

    async fn pass(&self, object: Arc<R::Kind>) -> Result<Duration, Error> {
        let key = Key::of(&*object);
        let delay = self.passed(object).await;
        self.see(&key);
        delay
    }

    async fn report(&self, object: &R::Kind, error: &Error, again: bool) {
        self.explain(object, error, again).await;
        self.see(&Key::of(object));
    }
}

impl<R: Reconciler> Full<R> {
    /// Keeps the metrics about objects that are not ready up to date.
    fn see(&self, key: &Key) {
        if let Some(now) = self.cache.lookup(key) {
            self.unready.see(&*now);
        }
    }

    async fn passed(&self, object: Arc<R::Kind>) -> Result<Duration, Error> {
        if object.meta().deletion_timestamp.is_some() {
            self.finalize(&object).await?;
            // Whatever is left to happen sends an event.
            return Ok(crate::requeue::resync());
        }
        let object = self.with_finalizer(object).await?;
        let progress = self.reconciler.reconcile(&object).await?;
        let delay = progress.delay();
        self.write_status(&object, progress.status).await?;
        Ok(delay)
    }

    async fn explain(&self, object: &R::Kind, error: &Error, again: bool) {
        // The first of its kind is retried within a second and rarely comes back; saying so would make every parent
        // look twice.
        if error.class() == Class::Conflict || (error.class() == Class::Transient && !again) {
            return;
        }
        // The finalizer may have been added since, and a status written. Of another spec, or of another object of that name,
        // this is not true, and it has its own turn.
        let (uid, generation) = (&object.meta().uid, object.meta().generation);
        let same = |now: &Arc<R::Kind>| now.meta().uid == *uid && now.meta().generation == generation;
        let Some(object) = self.cache.lookup(&Key::of(object)).filter(same) else { return };
        let mut status = object.status().cloned().unwrap_or_default();
        conditions::set_verdict(R::Kind::conditions_mut(&mut status), generation, Verdict::from(error));
        if let Err(error) = self.write_status(&object, status).await {
            debug!(%error, "the status could not be written; the next pass will");
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
        // This pass goes on with the answer; no need to wake for it.
        self.queue.see(&object);
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

    /// Writes the status if it differs from the one the object has, and tells of a change in readiness. One that is handed
    /// back as it was found says nothing about the generation, either.
    async fn write_status(&self, object: &R::Kind, mut status: StatusOf<R>) -> Result<(), Error> {
        if *object.status().unwrap_or(&StatusOf::<R>::default()) == status {
            return Ok(());
        }
        *R::Kind::observed_generation_mut(&mut status) = object.meta().generation;
        let old = object.status().map(R::Kind::conditions).unwrap_or_default();
        conditions::shorten(R::Kind::conditions_mut(&mut status));
        conditions::keep_history(old, R::Kind::conditions_mut(&mut status));
        // As it was found, or as it was written in the middle of the pass.
        let now = self.cache.lookup(&Key::of(object));
        if object.status() == Some(&status) || now.is_some_and(|now| now.status() == Some(&status)) {
            return Ok(());
        }
        match self.objects.set_status(object, &status).await {
            // Gone, or deleted and created again: this status is nobody's.
            Err(Error::Kube(kube::Error::Api(answer))) if answer.code == 404 => return Ok(()),
            answer => self.cache.written(answer?),
        };
        self.tell(object, old, R::Kind::conditions(&status));
        for Transition { type_, reason, note } in self.reconciler.transitions(object, object.status(), &status) {
            self.platform.event(object, type_, reason, note);
        }
        Ok(())
    }

    /// Events tell of transitions, never of passes: that somebody has to act, and that it is over. That an object becomes
    /// ready in the first place is what its condition is for, and would cost a request an object.
    fn tell(&self, object: &R::Kind, old: &[conditions::Condition], new: &[conditions::Condition]) {
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

/// A pass over an object whose status is not ours.
pub(crate) struct Plain<R>(pub(crate) R);

impl<R: PlainReconciler> Pass<R::Kind> for Plain<R> {
    const NAME: &'static str = R::NAME;

    async fn pass(&self, object: Arc<R::Kind>) -> Result<Duration, Error> {
        Ok(self.0.reconcile(&object).await?.unwrap_or_else(crate::requeue::resync))
    }

    async fn report(&self, _: &R::Kind, _: &Error, _: bool) {}
}
