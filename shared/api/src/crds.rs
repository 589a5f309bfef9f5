//! The CustomResourceDefinitions of every kind.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{CustomResourceDefinition, JSON};
use kube::CustomResourceExt;
use serde_json::json;

/// The definition of every kind, in the order in which a reader meets them.
#[must_use]
pub fn crds() -> Vec<CustomResourceDefinition> {
    let crds = [
        crate::Customer::crd(),
        crate::Plan::crd(),
        crate::CustomerNamespace::crd(),
        crate::DatabaseServer::crd(),
        crate::Database::crd(),
        crate::PgBouncer::crd(),
        crate::ConnectionPool::crd(),
        crate::Scheduler::crd(),
    ];
    crds.into_iter().map(pending).collect()
}

/// An object that no controller has looked at yet is not ready, and says so: tools take one without conditions for
/// [complete](https://github.com/kubernetes-sigs/cli-utils/blob/master/pkg/kstatus/README.md). The API server itself puts this
/// where there is no status, and no request is spent on it.
fn pending(mut crd: CustomResourceDefinition) -> CustomResourceDefinition {
    for version in &mut crd.spec.versions {
        let schema = version.schema.as_mut().and_then(|validation| validation.open_api_v3_schema.as_mut());
        if let Some(status) = schema.and_then(|schema| schema.properties.as_mut()?.get_mut("status")) {
            status.default = Some(JSON(json!({"conditions": [{
                "type": "Ready",
                "status": "Unknown",
                "reason": "Pending",
                "message": "no controller has looked at it yet",
                "lastTransitionTime": "1970-01-01T00:00:00Z",
            }]})));
        }
    }
    crd
}
