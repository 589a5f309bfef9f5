//! A small valid object of each kind that a controller may write. It starts no pods.

use anyhow::{Context as _, Result};
use kube::api::{ApiResource, DynamicObject};
use kube::core::GroupVersionKind;
use serde_json::{Value, json};

/// Returns the kind of a resource, for example `jobs.batch`, and an object of it.
pub fn sample(resource: &str) -> Result<(ApiResource, Value)> {
    let sample = body(resource).map(|(version, kind, body)| (version.to_owned(), kind.to_owned(), body));
    let (version, kind, body) = sample
        .or_else(|| without_fields(resource))
        .with_context(|| format!("e2e/tests/suite/samples.rs has no {resource}: add one"))?;
    let (plural, group) = resource.split_once('.').unwrap_or((resource, ""));
    let gvk = GroupVersionKind::gvk(group, &version, &kind);
    Ok((ApiResource::from_gvk_with_plural(&gvk, plural), body))
}

/// Returns an object of the kind with this body.
pub fn object(resource: &ApiResource, namespace: &str, name: &str, body: &Value) -> Result<DynamicObject> {
    let mut value = body.clone();
    if resource.kind == "Event" {
        value["regarding"] = json!({"apiVersion": "v1", "kind": "Secret", "namespace": namespace, "name": "none"});
    }
    value["apiVersion"] = json!(resource.api_version);
    value["kind"] = json!(resource.kind);
    let mut object: DynamicObject = serde_json::from_value(value)?;
    object.metadata.name = Some(name.to_owned());
    Ok(object)
}

/// A kind of Ahoi whose spec has no required field.
fn without_fields(resource: &str) -> Option<(String, String, Value)> {
    let plural = resource.strip_suffix(ahoi_api::GROUP)?.strip_suffix('.')?;
    let crd = ahoi_api::crds().into_iter().find(|crd| crd.spec.names.plural == plural)?;
    Some((crd.spec.versions.first()?.name.clone(), crd.spec.names.kind, json!({"spec": {}})))
}

fn body(resource: &str) -> Option<(&'static str, &'static str, Value)> {
    let labels = json!({"app": "rights"});
    let selector = json!({"matchLabels": labels});
    let container = json!({"name": "none", "image": "localhost/none:1"});
    let pods = json!({"metadata": {"labels": labels}, "spec": {"containers": [container]}});
    let job = json!({"suspend": true, "template": {"spec": {"restartPolicy": "Never", "containers": [container]}}});
    let place = json!({"namespace": "ahoi-system", "name": "global"});
    Some(match resource {
        "connectionpools.internal.example.com" => (
            "v1",
            "ConnectionPool",
            json!({"metadata": {}, "spec": {"databaseRef": {"name": "none"}, "pgBouncerRef": place}}),
        ),
        "cronjobs.batch" => {
            ("v1", "CronJob", json!({"spec": {"schedule": "0 0 1 1 *", "suspend": true, "jobTemplate": {"spec": job}}}))
        }
        "databases.internal.example.com" => ("v1", "Database", json!({"spec": {"storage": "1Gi"}})),
        "deployments.apps" => {
            ("v1", "Deployment", json!({"spec": {"replicas": 0, "selector": selector, "template": pods}}))
        }
        "events.events.k8s.io" => (
            "v1",
            "Event",
            json!({"eventTime": "2026-01-01T00:00:00.000000Z", "action": "Try", "reason": "Try", "type": "Normal",
                "reportingController": "example.com/rights", "reportingInstance": "rights"}),
        ),
        "jobs.batch" => ("v1", "Job", json!({"spec": job})),
        "limitranges" => ("v1", "LimitRange", json!({"spec": {"limits": []}})),
        "namespaces" => ("v1", "Namespace", json!({})),
        "networkpolicies.networking.k8s.io" => ("v1", "NetworkPolicy", json!({"spec": {"podSelector": selector}})),
        "poddisruptionbudgets.policy" => {
            ("v1", "PodDisruptionBudget", json!({"spec": {"maxUnavailable": 1, "selector": selector}}))
        }
        "pgbouncers.internal.example.com" => ("v1", "PgBouncer", json!({"spec": {"replicas": 1}})),
        "resourcequotas" => ("v1", "ResourceQuota", json!({"spec": {"hard": {"count/widgets.example.com": "1"}}})),
        "rolebindings.rbac.authorization.k8s.io" => (
            "v1",
            "RoleBinding",
            json!({"roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"},
                "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": "rights"}]}),
        ),
        "schedulers.internal.example.com" => {
            ("v1", "Scheduler", json!({"spec": {"workers": 0, "image": "localhost/none:1"}}))
        }
        "secrets" => ("v1", "Secret", json!({})),
        "serviceaccounts" => ("v1", "ServiceAccount", json!({"automountServiceAccountToken": false})),
        "services" => ("v1", "Service", json!({"spec": {"clusterIP": "None"}})),
        "statefulsets.apps" => (
            "v1",
            "StatefulSet",
            json!({"spec": {"replicas": 0, "serviceName": "rights", "selector": selector, "template": pods}}),
        ),
        _ => return None,
    })
}
