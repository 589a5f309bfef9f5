//! The CustomResourceDefinitions of every kind.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;

/// The definition of every kind, in the order in which a reader meets them.
#[must_use]
pub fn crds() -> Vec<CustomResourceDefinition> {
    vec![
        crate::Customer::crd(),
        crate::Plan::crd(),
        crate::CustomerNamespace::crd(),
        crate::DatabaseServer::crd(),
        crate::Database::crd(),
        crate::PgBouncer::crd(),
        crate::ConnectionPool::crd(),
        crate::Scheduler::crd(),
    ]
}
