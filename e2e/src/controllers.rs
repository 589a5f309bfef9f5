//! The controllers: killed, stopped and restarted by tests.

use std::fs;
use std::sync::LazyLock;

use anyhow::{Result, ensure};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams};
use serde_json::json;

use crate::cluster::Cluster;
use crate::system::SYSTEM;

/// Returns the Deployments of all controllers: one for each folder of `operators/`.
pub fn controllers() -> &'static [String] {
    static CONTROLLERS: LazyLock<Vec<String>> = LazyLock::new(|| {
        let operators = concat!(env!("CARGO_MANIFEST_DIR"), "/../operators");
        let folders = fs::read_dir(operators).into_iter().flatten().flatten().filter(|entry| entry.path().is_dir());
        let mut names: Vec<String> =
            folders.map(|folder| format!("ahoi-{}", folder.file_name().to_string_lossy())).collect();
        names.sort();
        names
    });
    &CONTROLLERS
}

impl Cluster {
    /// Deletes all pods of a controller at once, without a grace period, like a node failure.
    pub async fn kill(&self, controller: &str) -> Result<()> {
        let pods: Api<Pod> = self.of(SYSTEM);
        let selector = ListParams::default().labels(&format!("app.kubernetes.io/name={controller}"));
        let running = pods.list(&selector).await?;
        ensure!(!running.items.is_empty(), "{controller} has no pod to kill");
        for pod in running {
            let gone = pods.delete(&pod.name_any(), &DeleteParams::default().grace_period(0)).await;
            if let Err(error) = gone
                && !matches!(&error, kube::Error::Api(status) if status.is_not_found())
            {
                return Err(error.into());
            }
        }
        Ok(())
    }

    /// Scales a controller to `replicas` and waits until they are available.
    pub async fn scale(&self, controller: &str, replicas: i32) -> Result<()> {
        let deployments: Api<Deployment> = self.of(SYSTEM);
        let patch = json!({ "spec": { "replicas": replicas } });
        deployments.patch(controller, &PatchParams::default(), &Patch::Merge(&patch)).await?;
        let settled = |d: Option<&Deployment>| {
            d.and_then(|d| d.status.as_ref().map(|s| (d, s))).is_some_and(|(d, s)| {
                s.observed_generation == d.metadata.generation
                    && s.replicas.unwrap_or(0) == replicas
                    && s.available_replicas.unwrap_or(0) == replicas
            })
        };
        self.until(&deployments, controller, &format!("{replicas} available replicas"), 120, settled).await.map(drop)
    }

    /// Scales all controllers to 0 and waits until no pod is left.
    pub async fn stop_all(&self) -> Result<()> {
        for controller in controllers() {
            self.scale(controller, 0).await?;
            let pods: Api<Pod> = self.of(SYSTEM);
            let selector = format!("app.kubernetes.io/name={controller}");
            for pod in pods.list(&ListParams::default().labels(&selector)).await? {
                let name = pod.metadata.name.unwrap_or_default();
                self.until_gone(&pods, &name, 60).await?;
            }
        }
        Ok(())
    }

    /// Scales all controllers to 2 and waits until each has a leader.
    pub async fn start_all(&self) -> Result<()> {
        for controller in controllers() {
            self.scale(controller, 2).await?;
        }
        for controller in controllers() {
            self.led_again(controller).await?;
        }
        Ok(())
    }

    /// Waits until a current pod of the controller holds its Lease.
    async fn led_again(&self, controller: &str) -> Result<()> {
        let selector = ListParams::default().labels(&format!("app.kubernetes.io/name={controller}"));
        let pods = self.of::<Pod>(SYSTEM).list(&selector).await?;
        let names: Vec<String> = pods.iter().map(|pod| pod.name_any()).collect();
        let held = |lease: Option<&Lease>| {
            let holder = lease.and_then(|lease| lease.spec.as_ref()?.holder_identity.as_ref());
            holder.is_some_and(|holder| names.contains(holder))
        };
        self.until(&self.of::<Lease>(SYSTEM), controller, "held by a new pod", 120, held).await.map(drop)
    }
}
