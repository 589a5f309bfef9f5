//! The traits an operator implements.

use std::time::Duration;

use ahoi_api::{Conditioned, Object};

use crate::error::Error;
use crate::platform::EventType;
use crate::requeue;

/// One controller: what to do about one object of one kind.
///
/// A pass is idempotent and knows nothing of what woke it. It reads its object and others' status from
/// caches, works out what should be, applies it through [`Owned`](crate::Owned), and says what status
/// follows. Everything else (the finalizer, the status write, the conditions after an error, events, retries,
/// metrics) is the crate's.
pub trait Reconciler: Send + Sync + 'static {
    /// The kind this controller owns.
    type Kind: Conditioned;
    /// A short name for logs and metrics: "customer".
    const NAME: &'static str;
    /// Set when something outside of the reach of garbage collection must be cleaned up.
    const FINALIZER: Option<&'static str> = None;

    /// Dereference, validate, work out what is desired, apply it; the answer is the status the object
    /// should have, which is written if it differs from the one it has.
    fn reconcile(
        &self,
        object: &Self::Kind,
    ) -> impl Future<Output = Result<Progress<<Self::Kind as Conditioned>::Status>, Error>> + Send;

    /// Events that a status that was just written calls for, beside those about Stalled. `old` is the status before it. An event
    /// is a write: publish one where a status first has something that `old` had not, and none for what stays.
    fn transitions(
        &self,
        object: &Self::Kind,
        old: Option<&<Self::Kind as Conditioned>::Status>,
        new: &<Self::Kind as Conditioned>::Status,
    ) -> Vec<Transition> {
        let _ = (object, old, new);
        Vec::new()
    }

    /// Called while the object is being deleted and carries [`FINALIZER`](Self::FINALIZER). `Ok` means *done*, and
    /// the finalizer goes; "not yet" is an [`Error::Waiting`]. There is deliberately no third answer.
    ///
    /// Read the status, not the spec: a bad spec or a missing Secret must not keep an object for ever.
    fn cleanup(&self, object: &Self::Kind) -> impl Future<Output = Result<(), Error>> + Send {
        let _ = object;
        std::future::ready(Ok(()))
    }
}

/// An event about a change of status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transition {
    /// Normal, or Warning where a person has to act.
    pub type_: EventType,
    /// CamelCase.
    pub reason: &'static str,
    /// What has changed.
    pub note: String,
}

impl Transition {
    /// One that calls for no action.
    pub fn normal(reason: &'static str, note: impl Into<String>) -> Self {
        Transition { type_: EventType::Normal, reason, note: note.into() }
    }
}

/// The outcome of a good pass.
#[derive(Clone, Debug, PartialEq)]
pub struct Progress<S> {
    /// The status the object should have; as it was found, if there is nothing to say about this generation yet.
    pub status: S,
    /// When to look again although nothing happened. `None`: in 40 to 60 minutes.
    pub requeue: Option<Duration>,
}

impl<S> Progress<S> {
    /// Looked at again when something changes, or within the hour.
    pub fn new(status: S) -> Self {
        Progress { status, requeue: None }
    }

    /// Looked at again after `delay` at the latest; for what no watch can see.
    pub fn requeue_in(mut self, delay: Duration) -> Self {
        self.requeue = Some(delay);
        self
    }

    pub(crate) fn delay(&self) -> Duration {
        self.requeue.unwrap_or_else(requeue::resync)
    }
}

/// A controller for objects whose status is not ours to write: Secrets, Pods, Namespaces.
///
/// No status, no conditions, no finalizer; errors are logged, counted and retried like all others.
/// What it has to say it says by [`Platform::event`](crate::Platform::event).
pub trait PlainReconciler: Send + Sync + 'static {
    /// The kind this controller looks at.
    type Kind: Object;
    /// A short name for logs and metrics.
    const NAME: &'static str;

    /// Looks at one object. The answer is when to look again; `None`: in 40 to 60 minutes.
    fn reconcile(&self, object: &Self::Kind) -> impl Future<Output = Result<Option<Duration>, Error>> + Send;
}
