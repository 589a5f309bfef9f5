//! All kinds, with the types of their status.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;

use crate::*;

macro_rules! kinds {
    ($($kind:ident: $status:ident,)+) => {
        conditioned! { $($kind: $status,)+ }

        /// The definitions as they are derived from the types.
        pub(crate) fn definitions() -> Vec<CustomResourceDefinition> {
            vec![$($kind::crd(),)+]
        }
    };
}

// In the order in which a reader meets them.
kinds! {
    Customer: CustomerStatus,
    Plan: PlanStatus,
    CustomerNamespace: CustomerNamespaceStatus,
    DatabaseServer: DatabaseServerStatus,
    Database: DatabaseStatus,
    PgBouncer: PgBouncerStatus,
    ConnectionPool: ConnectionPoolStatus,
    Scheduler: SchedulerStatus,
}
