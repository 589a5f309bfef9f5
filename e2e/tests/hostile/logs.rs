//! Logs and arguments of our pods contain no secrets.

use std::collections::BTreeSet;

use ahoi_e2e::{Cluster, SYSTEM};
use anyhow::{Result, ensure};
use k8s_openapi::ByteString;
use serde_json::Value;

/// Keys of our Secrets whose values are public.
const PUBLIC: [&str; 9] = ["type", "provider", "host", "port", "database", "username", "sslmode", "ca.crt", "tls.crt"];
/// Shorter texts would match by chance.
const MIN_LENGTH: usize = 12;

/// Checks the arguments and all logs of the pods in ahoi-system, including terminated containers.
pub async fn hold_no_secrets(cluster: &Cluster) -> Result<()> {
    let secrets = secrets(cluster).await?;
    ensure!(secrets.len() > 10, "only {} secrets were found", secrets.len());
    let pods: Value = serde_json::from_str(&cluster.kubectl(&["-n", SYSTEM, "get", "pods", "-o", "json"], "").await?)?;
    let pods = pods["items"].as_array().map(Vec::as_slice).unwrap_or_default();
    let mut bytes = 0;
    for pod in pods {
        let name = pod["metadata"]["name"].as_str().unwrap_or_default();
        check(&format!("the spec of {name}"), &pod["spec"].to_string(), &secrets)?;
        for previous in ["--previous=false", "--previous=true"] {
            let args = ["-n", SYSTEM, "logs", name, "--all-containers", "--tail=-1", previous];
            // Containers without a restart have no previous log.
            let log = cluster.kubectl(&args, "").await.unwrap_or_default();
            bytes += log.len();
            check(&format!("the log of {name}"), &log, &secrets)?;
        }
    }
    println!("{} secrets in none of {bytes} bytes of logs", secrets.len());
    ensure!(bytes > 10_000, "only {bytes} bytes of logs were read");
    Ok(())
}

fn check(what: &str, text: &str, secrets: &BTreeSet<String>) -> Result<()> {
    match secrets.iter().position(|secret| text.contains(secret)) {
        // The error does not contain it either.
        Some(which) => anyhow::bail!("{what} contains secret {which} of {}", secrets.len()),
        None => Ok(()),
    }
}

/// Returns all passwords, tokens, verifiers and URIs in the Secrets of customers and of ahoi-system, also in base64.
async fn secrets(cluster: &Cluster) -> Result<BTreeSet<String>> {
    let labelled =
        cluster.kubectl(&["get", "secrets", "-A", "-l", "internal.example.com/binding", "-o", "json"], "").await?;
    let own = cluster.kubectl(&["-n", SYSTEM, "get", "secrets", "-o", "json"], "").await?;
    let mut found = BTreeSet::new();
    for list in [labelled, own] {
        let list: Value = serde_json::from_str(&list)?;
        for secret in list["items"].as_array().into_iter().flatten() {
            for (key, encoded) in secret["data"].as_object().into_iter().flatten() {
                let value: ByteString = serde_json::from_value(encoded.clone())?;
                let text = String::from_utf8_lossy(&value.0).into_owned();
                if PUBLIC.contains(&&**key) {
                    continue;
                }
                found.extend(encoded.as_str().map(ToOwned::to_owned));
                // The entry of a lookup login has its name and its password.
                let parts = text.split([':', '\n', ' ']);
                found.extend(parts.filter(|part| !is_public(part)).map(ToOwned::to_owned));
                found.insert(text);
            }
        }
    }
    found.retain(|text| text.len() >= MIN_LENGTH && !text.starts_with("-----"));
    Ok(found)
}

/// Whether logs may contain it: names of logins, and the prefix of each verifier.
fn is_public(part: &str) -> bool {
    part.starts_with("ahoi_") || part.starts_with("//") || part.starts_with("SCRAM-SHA-256$4096")
}
