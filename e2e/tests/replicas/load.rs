//! CustomerNamespaces whose specs change continuously. They have no Customer, because only one controller is tested.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use ahoi_api::{CustomerNamespace, namespace_of};
use ahoi_e2e::Cluster;
use ahoi_reconcile::is_ready;
use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::ResourceQuota;
use kube::ResourceExt as _;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinHandle;

pub const CUSTOMERS: usize = 24;
/// Interval between two changes.
const PAUSE: Duration = Duration::from_millis(80);

/// Changes objects until it is stopped.
pub struct Load {
    cluster: Cluster,
    changes: Arc<AtomicUsize>,
    stop: watch::Sender<bool>,
    task: JoinHandle<Result<()>>,
}

fn name(number: usize) -> String {
    format!("replicas-{number:02}")
}

fn spec(pods: usize) -> Value {
    json!({"spec": {"guardrails": {"quota": {"pods": pods.to_string()}}}})
}

fn object(number: usize, spec: &Value) -> Value {
    let mut object = json!({
        "apiVersion": "internal.example.com/v1",
        "kind": "CustomerNamespace",
        "metadata": {"name": name(number)},
    });
    object["spec"] = spec["spec"].clone();
    object
}

impl Load {
    pub async fn start(cluster: &Cluster) -> Result<Self> {
        let all: Api<CustomerNamespace> = cluster.all();
        let params = PatchParams::apply("ahoi-e2e").force();
        for number in 0..CUSTOMERS {
            all.patch(&name(number), &params, &Patch::Apply(object(number, &spec(10)))).await?;
        }
        let (stop, stopped) = watch::channel(false);
        let changes = Arc::new(AtomicUsize::new(0));
        let count = changes.clone();
        let task = tokio::spawn(async move {
            let mut ticks = tokio::time::interval(PAUSE);
            while !*stopped.borrow() {
                ticks.tick().await;
                let change = count.fetch_add(1, Ordering::Relaxed);
                all.patch(&name(change % CUSTOMERS), &PatchParams::default(), &Patch::Merge(spec(10 + change % 900)))
                    .await?;
            }
            Ok(())
        });
        Ok(Load { cluster: cluster.clone(), changes, stop, task })
    }

    /// Waits until each object is reconciled with a later spec.
    pub async fn all_are_reconciled(&self) -> Result<()> {
        ensure!(!self.task.is_finished(), "the changes ended");
        let (all, started) = (self.cluster.all::<CustomerNamespace>(), Instant::now());
        for object in all.list(&ListParams::default()).await? {
            let generation = object.metadata.generation;
            let newer = |object: Option<&CustomerNamespace>| {
                object.and_then(|object| object.status.as_ref()).is_some_and(|s| s.observed_generation > generation)
            };
            if object.name_any().starts_with("replicas-") {
                self.cluster.until(&all, &object.name_any(), "a newer spec is reconciled", 90, newer).await?;
            }
        }
        println!("all customers reconciled after {:.1?}", started.elapsed());
        Ok(())
    }

    /// Ends the changes and waits until the last ones are reconciled. Returns the number of changes.
    pub async fn stop(self) -> Result<usize> {
        self.stop.send_replace(true);
        self.task.await?.context("changing customers")?;
        for number in 0..CUSTOMERS {
            let settled = |object: Option<&CustomerNamespace>| object.is_some_and(is_ready);
            let found = self.cluster.until(&self.cluster.all(), &name(number), "Ready", 60, settled).await?;
            let wanted = found.context("vanished")?.spec.guardrails.quota;
            let quotas =
                self.cluster.of::<ResourceQuota>(&namespace_of(&name(number))).list(&ListParams::default()).await?;
            let has = |quota: &ResourceQuota| quota.spec.as_ref().and_then(|spec| spec.hard.as_ref()) == Some(&wanted);
            ensure!(quotas.iter().any(has), "{}: the last change was lost: {wanted:?}", name(number));
        }
        Ok(self.changes.load(Ordering::Relaxed))
    }
}

/// Deletes the objects and their namespaces.
pub async fn remove(cluster: &Cluster) -> Result<()> {
    let all: Api<CustomerNamespace> = cluster.all();
    for number in 0..CUSTOMERS {
        cluster.patch_spec(&all, &name(number), json!({"deletionPolicy": "Delete"})).await?;
        all.delete(&name(number), &DeleteParams::default()).await?;
    }
    for number in 0..CUSTOMERS {
        cluster.until_gone(&all, &name(number), 120).await?;
    }
    Ok(())
}
