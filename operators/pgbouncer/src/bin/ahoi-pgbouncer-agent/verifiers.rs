//! The Secrets with verifiers. Each is watched by its name, as the agent's Role lists the names.

use ahoi_reconcile::{Cache, Platform, watcher};
use futures::future::select_all;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use tokio::sync::watch::Receiver;

/// The caches of the Secrets.
pub struct Secrets(Vec<Cache<Secret>>);

/// Notifies of changes of the Secrets.
pub struct Changes(Vec<Receiver<()>>);

impl Secrets {
    /// Starts the watches.
    pub fn watch(platform: &Platform) -> Self {
        let secret = |name: String| {
            let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
            platform.cache(Api::namespaced(platform.client.clone(), platform.namespace()), config)
        };
        Secrets(ahoi_api::verifier_secrets().map(secret).collect())
    }

    /// Returns when all Secrets have been read.
    pub async fn wait_until_ready(&self) {
        for cache in &self.0 {
            cache.wait_until_ready().await;
        }
    }

    /// All logins with their verifiers.
    pub fn all(&self) -> impl Iterator<Item = (String, String)> {
        let secrets = self.0.iter().flat_map(Cache::all);
        secrets.flat_map(|secret| {
            let text = |(login, verifier): (&String, &k8s_openapi::ByteString)| {
                Some((login.clone(), String::from_utf8(verifier.0.clone()).ok()?))
            };
            secret.data.iter().flatten().filter_map(text).collect::<Vec<_>>()
        })
    }

    /// Subscribes to changes.
    pub fn changes(&self) -> Changes {
        Changes(self.0.iter().map(Cache::changes).collect())
    }
}

impl Changes {
    /// Returns at the next change.
    pub async fn changed(&mut self) {
        let each = self.0.iter_mut().map(|receiver| Box::pin(receiver.changed()));
        // A cache ends only with the process.
        if select_all(each).await.0.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Marks all changes until now as seen.
    pub fn mark_unchanged(&mut self) {
        self.0.iter_mut().for_each(Receiver::mark_unchanged);
    }
}
