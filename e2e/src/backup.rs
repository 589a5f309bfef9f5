//! Backup and restore of the objects of a customer, as backup tools do it.

use ahoi_api::namespace_of;
use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::Cluster;
use crate::kinds::{Scope, for_kubectl};

/// Kinds of Kubernetes in the namespace of a customer that a backup contains, in addition to those of Ahoi.
const KINDS: &str =
    "secrets,resourcequotas,limitranges,networkpolicies,rolebindings,deployments,cronjobs,poddisruptionbudgets";

/// Objects without uids, owner references and managed fields, which no backup tool restores.
pub struct Backup(Vec<Value>);

impl Cluster {
    /// Returns the objects of the customer. `customer_last`: the Customer is restored after its children.
    pub async fn backup(&self, name: &str, customer_last: bool) -> Result<Backup> {
        let namespace = namespace_of(name);
        let get = async |args: &[&str]| -> Result<Value> {
            Ok(serde_json::from_str(&self.kubectl(&[&["get", "-o", "json"][..], args].concat(), "").await?)?)
        };
        let mut items = vec![get(&["namespace", &namespace]).await?, get(&["customernamespace", name]).await?];
        let customer = get(&["customer", name]).await?;
        if !customer_last {
            items.push(customer.clone());
        }
        let kinds = format!("{KINDS},{}", for_kubectl(Scope::Namespaced));
        items.extend(get(&["-n", &namespace, &kinds]).await?["items"].as_array().cloned().unwrap_or_default());
        if customer_last {
            items.push(customer);
        }
        for item in &mut items {
            let meta = item["metadata"].as_object_mut().context("no metadata")?;
            for field in
                ["uid", "resourceVersion", "creationTimestamp", "generation", "ownerReferences", "managedFields"]
            {
                meta.remove(field);
            }
        }
        Ok(Backup(items))
    }

    /// Creates the objects that do not exist, without status, as most tools do. The controllers may run meanwhile.
    pub async fn restore(&self, backup: &Backup) -> Result<()> {
        let mut items = backup.0.clone();
        items.iter_mut().filter_map(Value::as_object_mut).for_each(|item| drop(item.remove("status")));
        let list = json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string();
        let Err(error) = self.kubectl(&["create", "-f", "-"], &list).await else { return Ok(()) };
        let answer = error.to_string();
        ensure!(answer.lines().all(|line| line.contains("already exists")), "{answer}");
        Ok(())
    }

    /// Creates the objects that do not exist, and writes the status of our kinds.
    pub async fn restore_with_status(&self, backup: &Backup) -> Result<()> {
        self.restore(backup).await?;
        for item in &backup.0 {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let (kind, group) = (text(&item["kind"]), text(&item["apiVersion"]));
            if !group.starts_with("internal.example.com/") {
                continue;
            }
            let (name, namespace) = (text(&item["metadata"]["name"]), text(&item["metadata"]["namespace"]));
            let (kind, patch) =
                (format!("{kind}.v1.internal.example.com"), json!({"status": item["status"]}).to_string());
            let mut patch =
                vec!["patch", kind.as_str(), name.as_str(), "--subresource=status", "--type=merge", "-p", &patch];
            if !namespace.is_empty() {
                patch.extend(["-n", namespace.as_str()]);
            }
            self.kubectl(&patch, "").await?;
        }
        Ok(())
    }
}
