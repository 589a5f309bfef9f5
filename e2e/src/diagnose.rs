//! Explanation of a wait that timed out: objects, events and the logs of the controllers.

use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ListParams, LogParams};
use kube::{Client, ResourceExt};

use crate::kinds::{Scope, for_kubectl};
use crate::kubectl::kubectl;
use crate::system::SYSTEM;

/// Prints the state around the object `name`. It returns no error, because the time-out is the error to report.
pub async fn print(client: &Client, name: &str) {
    eprintln!("\n==== why {name} is not as expected ====");
    let customer_namespace = format!("customer-{name}");
    let (cluster_scoped, namespaced) = (for_kubectl(Scope::Cluster), for_kubectl(Scope::Namespaced));
    let of_customer = format!("{namespaced},deployments");
    for args in [
        vec!["get", &cluster_scoped, "-o", "wide"],
        vec!["get", &namespaced, "-A", "-o", "wide"],
        vec!["get", "customer", name, "-o", "yaml"],
        vec!["get", "pods", "-A", "-o", "wide"],
        vec!["get", &of_customer, "-n", &customer_namespace, "-o", "yaml"],
        vec!["get", "events", "-n", &customer_namespace, "--sort-by=.lastTimestamp"],
        vec!["get", "events", "-n", "default", "--sort-by=.lastTimestamp"],
    ] {
        match kubectl(&args, "").await {
            Ok(text) => eprintln!("$ kubectl {}\n{}", args.join(" "), tail(&text, 150)),
            Err(error) => eprintln!("$ {error:#}"),
        }
    }
    logs(client).await;
    eprintln!("==== end of {name} ====\n");
}

async fn logs(client: &Client) {
    let pods: Api<Pod> = Api::namespaced(client.clone(), SYSTEM);
    let Ok(list) = pods.list(&ListParams::default().labels("app.kubernetes.io/part-of=ahoi")).await else { return };
    for pod in list {
        let params = LogParams { tail_lines: Some(25), ..LogParams::default() };
        match pods.logs(&pod.name_any(), &params).await {
            Ok(text) if text.is_empty() => {}
            Ok(text) => eprintln!("---- {}\n{text}", pod.name_any()),
            Err(error) => eprintln!("---- {}: {error}", pod.name_any()),
        }
    }
}

fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}
