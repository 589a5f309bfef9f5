//! The traits an operator implements.

use std::time::Duration;

use ahoi_api::{Conditioned, Object};

use crate::error::Error;
use crate::platform::EventType;

/// A controller of objects of one kind.
///
/// A reconcile is idempotent and does not know what triggered it. It reads its object and others' status from caches, computes
/// the desired state, applies it through [`Owned`](crate::Owned), and returns the status. This crate does the rest: finalizer,
/// status write, conditions after an error, events, retries and metrics.
pub trait Reconciler: Send + Sync + 'static {
    /// The kind this controller owns.
    type Kind: Conditioned;
    /// Name in logs and metrics, such as "customer".
    const NAME: &'static str;
    /// The finalizer, for a kind with something to clean up that garbage collection does not reach.
    const FINALIZER: Option<&'static str> = None;

    /// Dereferences, validates, computes the desired state and applies it. Returns the status, which is written if it differs.
    fn reconcile(
        &self,
        object: &Self::Kind,
    ) -> impl Future<Output = Result<Progress<<Self::Kind as Conditioned>::Status>, Error>> + Send;

    /// Events about the status that was just written, in addition to those about Stalled; `old` is the status before. An event
    /// is a write: return one only for a difference.
    fn transitions(
        &self,
        object: &Self::Kind,
        old: Option<&<Self::Kind as Conditioned>::Status>,
        new: &<Self::Kind as Conditioned>::Status,
    ) -> Vec<Transition> {
        let _ = (object, old, new);
        Vec::new()
    }

    /// Called while the object is being deleted and has the [`FINALIZER`](Self::FINALIZER). `Ok` means *done*: the finalizer is
    /// removed. Return [`Error::Waiting`] while something is missing.
    ///
    /// Read the status, not the spec: a bad spec or a missing Secret must not block the deletion.
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
    /// A transition that needs no action.
    pub fn normal(reason: impl Into<&'static str>, note: impl Into<String>) -> Self {
        Transition { type_: EventType::Normal, reason: reason.into(), note: note.into() }
    }
}

/// The outcome of a successful reconcile.
#[derive(Clone, Debug, PartialEq)]
pub struct Progress<S> {
    /// The status to write; the unchanged one, if there is nothing to report about this generation yet.
    pub status: S,
    /// The delay until the next reconcile if no event triggers one. `None`: 40 to 60 minutes.
    pub requeue: Option<Duration>,
}

impl<S> Progress<S> {
    /// The next reconcile follows on an event, or within the hour.
    pub fn new(status: S) -> Self {
        Progress { status, requeue: None }
    }

    /// The next reconcile follows after `delay` at the latest; for what no watch reports.
    pub fn requeue_in(mut self, delay: Duration) -> Self {
        self.requeue = Some(delay);
        self
    }
}

/// A controller for objects whose status is not ours to write: Secrets, Pods, Namespaces.
///
/// No status, conditions or finalizer; errors are logged, counted and retried. It reports by
/// [`Platform::event`](crate::Platform::event).
pub trait PlainReconciler: Send + Sync + 'static {
    /// The kind of the objects.
    type Kind: Object;
    /// A short name for logs and metrics.
    const NAME: &'static str;

    /// Reconciles one object. Returns the delay until the next reconcile; `None`: 40 to 60 minutes.
    fn reconcile(&self, object: &Self::Kind) -> impl Future<Output = Result<Option<Duration>, Error>> + Send;
}
