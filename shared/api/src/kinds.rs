//! All kinds, with the types of their status.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;

use crate::*;

macro_rules! kinds {
    ($($kind:ident: $status:ident,)+) => {
        conditioned! { $($kind: $status,)+ }

        /// The definitions of all kinds.
        pub(crate) fn definitions() -> Vec<CustomResourceDefinition> {
            vec![$(crate::crds::definition::<$kind>(),)+]
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
