//! The traits an operator implements.

use std::fmt::Debug;
use std::time::Duration;

use k8s_openapi::ClusterResourceScope;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::Resource;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::Error;
use crate::platform::EventType;
use crate::requeue;

/// A kind known at compile time; every type of k8s-openapi and every derived custom resource is one.
pub trait Object:
    Resource<DynamicType = (), Scope: 'static> + Clone + Debug + Serialize + DeserializeOwned + Send + Sync + 'static
{
    /// Whether objects of this kind live outside of namespaces.
    fn cluster_scoped() -> bool {
        std::any::TypeId::of::<Self::Scope>() == std::any::TypeId::of::<ClusterResourceScope>()
    }
}

impl<K> Object for K where
    K: Resource<DynamicType = (), Scope: 'static>
        + Clone
        + Debug
        + Serialize
        + DeserializeOwned
        + Send
        + Sync
        + 'static
{
}

/// A kind whose status carries conditions and an observed generation: all the crate needs to know
/// to settle the outcome of a pass by itself.
pub trait Conditioned: Object {
    /// The `status` of the kind.
    type Status: Default + Clone + PartialEq + Debug + Serialize + Send + Sync;

    /// The status, if there is one yet.
    fn status(&self) -> Option<&Self::Status>;
    /// Replaces the status; for fixtures, since the real one is only ever written through the API.
    fn set_status(&mut self, status: Self::Status);
    /// `status.conditions`.
    fn conditions(status: &Self::Status) -> &[Condition];
    /// `status.conditions`, to be changed.
    fn conditions_mut(status: &mut Self::Status) -> &mut Vec<Condition>;
    /// `status.observedGeneration`, to be changed.
    fn observed_generation_mut(status: &mut Self::Status) -> &mut Option<i64>;
    /// `status.observedGeneration`.
    fn observed_generation(status: &Self::Status) -> Option<i64> {
        *Self::observed_generation_mut(&mut status.clone())
    }
}

/// Implements [`Conditioned`] for kinds whose status has the fields `conditions: Vec<Condition>` and
/// `observed_generation: Option<i64>`: `conditioned!(Customer: CustomerStatus, Plan: PlanStatus)`.
#[macro_export]
macro_rules! conditioned {
    ($($kind:ty: $status:ty),+ $(,)?) => {$(
        impl $crate::Conditioned for $kind {
            type Status = $status;

            fn status(&self) -> Option<&$status> {
                self.status.as_ref()
            }
            fn set_status(&mut self, status: $status) {
                self.status = Some(status);
            }
            fn conditions(status: &$status) -> &[$crate::conditions::Condition] {
                &status.conditions
            }
            fn conditions_mut(status: &mut $status) -> &mut Vec<$crate::conditions::Condition> {
                &mut status.conditions
            }
            fn observed_generation_mut(status: &mut $status) -> &mut Option<i64> {
                &mut status.observed_generation
            }
        }
    )+};
}

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
