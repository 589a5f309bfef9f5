//! What every kind is, and what every status has: `observedGeneration` and `conditions`.

use std::fmt::Debug;

use k8s_openapi::ClusterResourceScope;
pub use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::Resource;
use serde::Serialize;
use serde::de::DeserializeOwned;

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

/// A kind whose status carries conditions and an observed generation: all that a controller needs to
/// know to write the outcome of a reconcile.
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
            fn conditions(status: &$status) -> &[$crate::Condition] {
                &status.conditions
            }
            fn conditions_mut(status: &mut $status) -> &mut Vec<$crate::Condition> {
                &mut status.conditions
            }
            fn observed_generation_mut(status: &mut $status) -> &mut Option<i64> {
                &mut status.observed_generation
            }
        }
    )+};
}
