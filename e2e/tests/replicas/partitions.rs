//! Replicas of a controller and the Leases of its partitions.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use ahoi_e2e::{Cluster, SYSTEM};
use anyhow::{Context as _, Result, bail, ensure};
use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kube::runtime::{WatchStreamExt as _, watcher};
use serde_json::json;
use tokio::process::Command;

pub const CONTROLLER: &str = "ahoi-namespace";
pub const PARTITIONS: u32 = 3;

pub struct Replicas(pub Cluster);

/// Holder of each partition.
type Holders = BTreeMap<u32, String>;

impl Replicas {
    /// Sets the number of partitions and replicas, and waits for the rollout.
    pub async fn divide(&self, partitions: u32, replicas: i32) -> Result<()> {
        let container = json!({"name": "controller", "env": [{"name": "PARTITIONS", "value": partitions.to_string()}]});
        let patch = json!({"spec": {"replicas": replicas, "template": {"spec": {"containers": [container]}}}});
        let deployments = self.0.of::<Deployment>(SYSTEM);
        deployments.patch(CONTROLLER, &PatchParams::default(), &Patch::Strategic(patch)).await?;
        let done = |deployment: Option<&Deployment>| {
            deployment.and_then(|d| d.status.as_ref().map(|s| (d, s))).is_some_and(|(d, s)| {
                s.observed_generation == d.metadata.generation
                    && [s.replicas, s.updated_replicas, s.available_replicas] == [Some(replicas); 3]
            })
        };
        self.0.until(&deployments, CONTROLLER, "rolled out", 120, done).await.map(drop)
    }

    /// Waits until a pod holds the Lease of the controller without partitions.
    pub async fn undivided(&self) -> Result<()> {
        let started = Instant::now();
        let held = |lease: Option<&Lease>| {
            lease.and_then(|lease| holder(lease)).is_some_and(|holder| holder.starts_with(CONTROLLER))
        };
        self.0.until(&self.0.of::<Lease>(SYSTEM), CONTROLLER, "held by a pod", 60, held).await?;
        println!("undivided again after {:.1?}", started.elapsed());
        Ok(())
    }

    /// Waits until the pods hold these numbers of partitions, in ascending order.
    pub async fn share(&self, what: &str, shares: &[usize]) -> Result<()> {
        self.share_without("", what, shares).await
    }

    /// Waits until the pods hold these numbers of partitions, and the deleted pod none.
    pub async fn share_without(&self, gone: &str, what: &str, shares: &[usize]) -> Result<()> {
        let started = Instant::now();
        self.until(what, |holders| {
            let mut counts = BTreeMap::<&str, usize>::new();
            holders.values().for_each(|pod| *counts.entry(pod).or_default() += 1);
            let mut each: Vec<usize> = counts.values().copied().collect();
            each.sort_unstable();
            each == shares && !counts.contains_key(gone)
        })
        .await?;
        println!("{what}, after {:.1?}", started.elapsed());
        Ok(())
    }

    /// Waits until another pod holds this partition.
    pub async fn taken_from(&self, pod: &str, partition: u32) -> Result<()> {
        self.until("taken over", |holders| holders.get(&partition).is_some_and(|holder| holder != pod)).await
    }

    /// Returns the pod that holds this partition.
    pub async fn holder_of(&self, partition: u32) -> Result<String> {
        self.holders().await?.remove(&partition).with_context(|| format!("no pod holds partition {partition}"))
    }

    /// Deletes the pod without a grace period, like a node failure.
    pub async fn kill_pod(&self, pod: &str) -> Result<()> {
        signal(pod, "KILL").await?;
        self.0.of::<Pod>(SYSTEM).delete(pod, &DeleteParams::default().grace_period(0)).await?;
        Ok(())
    }

    async fn holders(&self) -> Result<Holders> {
        let leases = self.0.of::<Lease>(SYSTEM).list(&ListParams::default()).await?;
        let partition = |lease: &Lease| {
            let name = lease.name_any();
            name.strip_prefix(&format!("{CONTROLLER}-"))?.strip_suffix(&format!("-of-{PARTITIONS}"))?.parse().ok()
        };
        Ok(leases.iter().filter_map(|lease| Some((partition(lease)?, holder(lease)?.to_owned()))).collect())
    }

    async fn until(&self, what: &str, holds: impl Fn(&Holders) -> bool) -> Result<()> {
        let mut changes = watcher(self.0.of::<Lease>(SYSTEM), watcher::Config::default()).default_backoff().boxed();
        let waiting = async {
            loop {
                if holds(&self.holders().await?) {
                    return anyhow::Ok(());
                }
                changes.try_next().await?.context("the watch of Leases ended")?;
            }
        };
        match tokio::time::timeout(Duration::from_secs(120), waiting).await {
            Ok(outcome) => outcome,
            Err(_) => bail!("not within 120 s: {what}; the holders are {:?}", self.holders().await?),
        }
    }
}

fn holder(lease: &Lease) -> Option<&str> {
    lease.spec.as_ref()?.holder_identity.as_deref().filter(|holder| !holder.is_empty())
}

/// Sends a signal to the process of the controller in a pod, which is identified by the pod's name in its environment.
pub async fn signal(pod: &str, signal: &str) -> Result<()> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        // A process may have ended, and some are not readable.
        let Ok(environment) = std::fs::read(entry.path().join("environ")) else { continue };
        if environment.split(|byte| *byte == 0).any(|variable| variable == format!("POD_NAME={pod}").as_bytes()) {
            found.push(pid.to_string());
        }
    }
    ensure!(found.len() == 1, "the process of {pod} was not found: {found:?}");
    let sent = Command::new("kill").args([format!("-{signal}"), found.remove(0)]).status().await?;
    ensure!(sent.success(), "{pod}: kill -{signal}: {sent}");
    Ok(())
}
