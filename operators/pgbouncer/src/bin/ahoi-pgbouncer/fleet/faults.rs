//! Why pods of a fleet do not run, and the remedies; pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use ahoi_api::PgBouncer;
use ahoi_reconcile::pods::{Fault, trouble};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;

/// Maximum number of named pods with the same fault.
const NAMED: usize = 3;

/// The faults of a fleet's pods.
#[derive(Debug, PartialEq, Eq)]
pub struct Faults {
    /// The reason of the first fault.
    pub reason: &'static str,
    /// All faults, each with its pods, the message of Kubernetes, and a remedy.
    pub message: String,
}

/// The faults of the fleet's pods, if any.
pub fn faults(fleet: &PgBouncer, pods: &[Arc<Pod>]) -> Option<Faults> {
    let mut found: BTreeMap<(Fault, String), Vec<String>> = BTreeMap::new();
    for trouble in pods.iter().filter_map(|pod| trouble(pod)) {
        found.entry((trouble.fault, trouble.message)).or_default().push(trouble.pod);
    }
    let reason = found.keys().next()?.0.reason();
    let describe = |((fault, message), pods): (&(Fault, String), &Vec<String>)| {
        let first = pods.first().map(String::as_str).unwrap_or_default();
        format!("{}: {}: {message}. {}", names(pods), fault.reason(), remedy(fleet, *fault, first))
    };
    Some(Faults { reason, message: found.iter().map(describe).collect::<Vec<_>>().join("; ") })
}

fn names(pods: &[String]) -> String {
    let named = pods.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
    match pods.len().saturating_sub(NAMED) {
        0 => format!("pod {named}"),
        more => format!("pod {named} and {more} more"),
    }
}

fn remedy(fleet: &PgBouncer, fault: Fault, pod: &str) -> String {
    let (namespace, name) = (fleet.namespace().unwrap_or_default(), fleet.name_any());
    match fault {
        Fault::Image if fleet.spec.image.is_some() => {
            format!("Correct spec.image of PgBouncer {namespace}/{name}, or make the image available to the nodes")
        }
        Fault::Image => format!(
            "Make the image available to the nodes, or set spec.image of PgBouncer {namespace}/{name} to one that is"
        ),
        Fault::Unschedulable => format!(
            "Add a node that has what the pod needs, or lower spec.resources or spec.replicas of PgBouncer {namespace}/{name}"
        ),
        Fault::Config => format!("See `kubectl -n {namespace} describe pod {pod}`"),
        Fault::Crash => format!(
            "See `kubectl -n {namespace} logs {pod} --previous`, and spec.image and spec.resources of PgBouncer {namespace}/{name}"
        ),
    }
}

#[cfg(test)]
mod tests {
    use ahoi_api::PgBouncerSpec;
    use serde_json::json;

    use super::*;

    fn pod(name: &str, reason: &str, message: &str) -> Arc<Pod> {
        let container = json!({"name": "pgbouncer", "image": "localhost/nope:1", "imageID": "", "ready": false,
            "restartCount": 0, "state": {"waiting": {"reason": reason, "message": message}}});
        let pod = json!({"metadata": {"name": name}, "status": {"containerStatuses": [container]}});
        Arc::new(serde_json::from_value(pod).unwrap())
    }

    #[test]
    fn pods_with_the_same_fault_are_named_together_with_a_remedy() {
        let mut fleet = PgBouncer::new("global", PgBouncerSpec::default());
        fleet.metadata.namespace = Some("ahoi-system".into());
        assert_eq!(faults(&fleet, &[]), None);
        assert_eq!(faults(&fleet, &[pod("global-0", "ContainerCreating", "")]), None);
        let pods: Vec<_> = (0..5).map(|n| pod(&format!("global-{n}"), "ErrImagePull", "not found")).collect();
        let found = faults(&fleet, &pods).unwrap();
        assert_eq!(found.reason, "ImagePullBackOff");
        insta::assert_snapshot!(found.message, @"pod global-0, global-1, global-2 and 2 more: ImagePullBackOff: image localhost/nope:1: not found. Make the image available to the nodes, or set spec.image of PgBouncer ahoi-system/global to one that is");
        fleet.spec.image = Some("localhost/nope:1".into());
        insta::assert_snapshot!(faults(&fleet, &pods[..1]).unwrap().message, @"pod global-0: ImagePullBackOff: image localhost/nope:1: not found. Correct spec.image of PgBouncer ahoi-system/global, or make the image available to the nodes");
    }
}
