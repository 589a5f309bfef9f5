//! Takes away what was made without the suite, and what therefore no controller would take away.

use anyhow::Result;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{Api, DeleteParams, ListParams};
use kube::{Client, ResourceExt as _};
use serde_json::Value;

use crate::bench::{AT_ONCE, Bench, PATIENCE};
use crate::scenarios::offboard::namespaces_gone;
use crate::scenarios::peers::leftovers;

impl Bench {
    /// Deletes everything of `set` and waits until its namespaces are gone: the next one is to find an empty cluster.
    pub async fn clear(&self, set: &str) -> Result<()> {
        let mut gone = namespaces_gone(self, set).await?;
        let prefix = format!("{set}-");
        for collection in leftovers() {
            // A kind may not be there at all.
            let Ok(list) =
                self.cluster.client.request::<Value>(http::Request::get(&collection).body(Vec::new())?).await
            else {
                continue;
            };
            let items = list["items"].as_array().cloned().unwrap_or_default();
            let names = items.iter().filter_map(|item| item["metadata"]["name"].as_str());
            let paths: Vec<String> =
                names.filter(|name| name.starts_with(&prefix)).map(|name| format!("{collection}/{name}")).collect();
            let removed = paths.iter().map(|path| remove(&self.cluster.client, path));
            stream::iter(removed).buffer_unordered(AT_ONCE).try_collect::<()>().await?;
        }
        let namespaces: Api<Namespace> = self.cluster.all();
        let prefix = ahoi_api::namespace_of(&prefix);
        let all = namespaces.list_metadata(&ListParams::default()).await?;
        let theirs: Vec<String> = all.iter().map(|n| n.name_any()).filter(|name| name.starts_with(&prefix)).collect();
        let deleted = theirs.iter().map(|name| {
            let (namespaces, name) = (namespaces.clone(), name.clone());
            async move { namespaces.delete(&name, &DeleteParams::default()).await.map(drop) }
        });
        stream::iter(deleted).buffer_unordered(AT_ONCE).try_collect::<()>().await?;
        gone.all(theirs.len(), "namespaces gone", PATIENCE).await.map(drop)
    }
}

/// Deletes one object without waiting for whoever has a finalizer on it.
async fn remove(client: &Client, path: &str) -> Result<()> {
    let without = http::Request::patch(path).header("content-type", "application/merge-patch+json");
    let without = without.body(br#"{"metadata":{"finalizers":null}}"#.to_vec())?;
    let delete = http::Request::delete(path).body(Vec::new())?;
    for request in [without, delete] {
        match client.request_text(request).await {
            // Whoever owned it was quicker.
            Err(kube::Error::Api(status)) if status.is_not_found() => {}
            answer => drop(answer?),
        }
    }
    Ok(())
}
