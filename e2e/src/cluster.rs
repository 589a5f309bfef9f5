//! The cluster under test.

use std::fmt::Debug;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use kube::api::{Api, DeleteParams};
use kube::runtime::wait::await_condition;
use kube::{Client, Resource};
use serde::de::DeserializeOwned;

use crate::diagnose;
use crate::kubectl::kubectl;

/// A connection to the cluster under test, as its administrator.
#[derive(Clone)]
pub struct Cluster {
    /// Client of the API server.
    pub client: Client,
}

impl Cluster {
    /// Connects to the cluster of KUBECONFIG.
    pub async fn connect() -> Result<Self> {
        // Another test of the process may have installed the provider.
        let _ = rustls::crypto::ring::default_provider().install_default();
        if std::env::var_os("KUBECONFIG").is_none() {
            bail!("KUBECONFIG is not set: use e2e/run, which starts a cluster for the tests");
        }
        Ok(Self { client: Client::try_default().await? })
    }

    /// Returns the API of a cluster-scoped kind, or of a namespaced kind in all namespaces.
    pub fn all<K: Resource<DynamicType = ()>>(&self) -> Api<K> {
        Api::all(self.client.clone())
    }

    /// Returns the API of a kind in `namespace`.
    pub fn of<K>(&self, namespace: &str) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), namespace)
    }

    /// Waits at most `seconds` until `holds` returns true for the object `name` (None: the object does not exist). `what` is the
    /// expected state, for the error.
    pub async fn until<K>(
        &self,
        api: &Api<K>,
        name: &str,
        what: &str,
        seconds: u64,
        holds: impl Fn(Option<&K>) -> bool,
    ) -> Result<Option<K>>
    where
        K: Clone + Debug + Send + DeserializeOwned + Resource<DynamicType = ()> + 'static,
    {
        let waited = await_condition(api.clone(), name, holds);
        match tokio::time::timeout(Duration::from_secs(seconds), waited).await {
            Ok(found) => Ok(found?),
            Err(_) => {
                diagnose::print(&self.client, name).await;
                bail!("{} {name} is not within {seconds} s: {what}", K::kind(&()))
            }
        }
    }

    /// Waits until the object `name` does not exist.
    pub async fn until_gone<K>(&self, api: &Api<K>, name: &str, seconds: u64) -> Result<()>
    where
        K: Clone + Debug + Send + DeserializeOwned + Resource<DynamicType = ()> + 'static,
    {
        self.until(api, name, "deleted", seconds, |o: Option<&K>| o.is_none()).await.map(drop)
    }

    /// Deletes the object `name` if it exists, and waits until it is deleted. While admission denies the deletion because the
    /// object is in use, the deletion is retried.
    pub async fn delete<K>(&self, api: &Api<K>, name: &str, seconds: u64) -> Result<()>
    where
        K: Clone + Debug + Send + DeserializeOwned + Resource<DynamicType = ()> + 'static,
    {
        let deleted = async {
            loop {
                match api.delete(name, &DeleteParams::default()).await {
                    Err(kube::Error::Api(status)) if status.is_not_found() => return Ok(()),
                    Err(kube::Error::Api(status)) if status.message.contains("is in use") => {
                        tokio::time::sleep(Duration::from_millis(500)).await;
                    }
                    answer => return answer.map(drop),
                }
            }
        };
        let waited = tokio::time::timeout(Duration::from_secs(seconds), deleted).await;
        waited.with_context(|| format!("{} {name} is in use after {seconds} s", K::kind(&())))??;
        self.until_gone(api, name, seconds).await
    }

    /// Runs kubectl with `args` and `stdin`. Returns its standard output; its standard error is the error.
    pub async fn kubectl(&self, args: &[&str], stdin: &str) -> Result<String> {
        kubectl(args, stdin).await
    }

    /// Runs `kubectl apply` with `manifest`. A refusal of the API server is the error.
    pub async fn apply(&self, manifest: &str) -> Result<()> {
        self.kubectl(&["apply", "-f", "-"], manifest).await.map(drop)
    }

    /// Merges `spec` into the spec of the object `name`, like `kubectl patch --type=merge`.
    pub async fn patch_spec<K>(&self, api: &Api<K>, name: &str, spec: serde_json::Value) -> Result<K>
    where
        K: Clone + Debug + DeserializeOwned + Resource<DynamicType = ()>,
    {
        let patch = serde_json::json!({ "spec": spec });
        Ok(api.patch(name, &kube::api::PatchParams::default(), &kube::api::Patch::Merge(&patch)).await?)
    }
}
