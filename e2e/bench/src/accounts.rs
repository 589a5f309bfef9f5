//! ServiceAccounts of the peers, so that their requests are authenticated, authorized, audited and limited like those of Ahoi.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::{Value, json};

use crate::bench::Bench;

/// Namespace of the accounts.
pub const NAMESPACE: &str = "ahoi-bench-peers";

/// Returns a client of the account `name`.
pub async fn client(bench: &Bench, name: &str) -> Result<Client> {
    let config: Kubeconfig = serde_json::from_value(kubeconfig(bench, name).await?)?;
    let config = Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await?;
    Ok(Client::try_from(config)?)
}

/// Writes a kubeconfig of the account `name` into `folder`.
pub async fn kubeconfig_file(bench: &Bench, name: &str, folder: &Path) -> Result<PathBuf> {
    let file = folder.join(format!("{name}.kubeconfig"));
    fs::write(&file, kubeconfig(bench, name).await?.to_string())?;
    fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    Ok(file)
}

async fn kubeconfig(bench: &Bench, name: &str) -> Result<Value> {
    bench.cluster.apply(&account(name)).await?;
    let create = ["create", "token", name, "--namespace", NAMESPACE, "--duration", "24h"];
    let token = bench.cluster.kubectl(&create, "").await?;
    let config = bench.cluster.kubectl(&["config", "view", "--raw", "--minify", "-o", "json"], "").await?;
    let mut config: Value = serde_json::from_str(&config)?;
    config["users"][0]["user"] = json!({"token": token.trim()});
    Ok(config)
}

/// Returns the manifest of an account with all rights.
fn account(name: &str) -> String {
    let account = json!({"kind": "ServiceAccount", "name": name, "namespace": NAMESPACE});
    let metadata = json!({"name": name, "namespace": NAMESPACE});
    json!({"apiVersion": "v1", "kind": "List", "items": [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}},
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata},
        {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
            "metadata": {"name": format!("ahoi-bench-{name}")}, "subjects": [account],
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"}},
    ]})
    .to_string()
}
