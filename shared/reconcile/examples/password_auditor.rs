//! Publishes an Event for each Secret with a password of fewer than ten characters. With `--delete`, deletes these Secrets, in one
//! namespace: `--delete` requires `--namespace`, so that it cannot delete Secrets of the whole cluster.
//!
//! ```sh
//! cargo run --example password_auditor -- --leader-elect=false
//! cargo run --example password_auditor -- --leader-elect=false --namespace playground --delete
//! ```

use std::time::Duration;

use ahoi_reconcile::{Controller, Error, EventType, PlainReconciler, Platform, watcher};
use k8s_openapi::api::core::v1::Secret;
use kube::api::{DeleteParams, Preconditions};
use kube::{Api, ResourceExt};

const MIN_LENGTH: usize = 10;

#[derive(clap::Args, Debug)]
struct Options {
    /// Namespace of the Secrets. Default: all namespaces
    #[arg(long)]
    namespace: Option<String>,
    /// Delete the Secrets, in addition to the event
    #[arg(long, requires = "namespace")]
    delete: bool,
}

struct Auditor {
    platform: Platform,
    delete: bool,
}

impl PlainReconciler for Auditor {
    type Kind = Secret;
    const NAME: &'static str = "password-auditor";

    async fn reconcile(&self, secret: &Secret) -> Result<Option<Duration>, Error> {
        let weak = weak_passwords(secret);
        if weak.is_empty() || secret.metadata.deletion_timestamp.is_some() {
            return Ok(None);
        }
        let note = format!("{} has fewer than {MIN_LENGTH} characters", weak.join(", "));
        self.platform.event(secret, EventType::Warning, "WeakPassword", note);
        if self.delete {
            self.remove(secret).await?;
        }
        Ok(None)
    }
}

impl Auditor {
    async fn remove(&self, secret: &Secret) -> Result<(), Error> {
        let namespace = secret.namespace().unwrap_or_default();
        let secrets: Api<Secret> = Api::namespaced(self.platform.client.clone(), &namespace);
        // Only this version: a Secret that has changed since is checked again.
        let exactly = Preconditions { uid: secret.uid(), resource_version: secret.resource_version() };
        secrets.delete(&secret.name_any(), &DeleteParams::default().preconditions(exactly)).await?;
        Ok(())
    }
}

/// The keys of short passwords.
fn weak_passwords(secret: &Secret) -> Vec<String> {
    let data = secret.data.iter().flatten();
    let weak = data.filter(|(key, value)| key.to_lowercase().contains("password") && value.0.len() < MIN_LENGTH);
    weak.map(|(key, _)| key.clone()).collect()
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    ahoi_reconcile::run_with::<Options, _>("password-auditor", async |platform: Platform, options| {
        // Without the releases of Helm, which are large Secrets.
        let config = watcher::Config::default().fields("type!=helm.sh/release.v1");
        let client = platform.client.clone();
        let api: Api<Secret> = match &options.namespace {
            Some(namespace) => Api::namespaced(client, namespace),
            None => Api::all(client),
        };
        let secrets = platform.cache(api, config);
        let auditor = Auditor { platform: platform.clone(), delete: options.delete };
        Ok(vec![Controller::new(&platform, &secrets).run_plain(auditor)])
    })
    .await
}
