//! Fast cleanup between scenarios: the namespace controller of Kubernetes sends about sixty requests for each namespace. The
//! controllers must not run, because they would recreate their objects.

use anyhow::Result;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{Api, DynamicObject, ListParams};
use kube::core::PartialObjectMeta;
use kube::discovery::{Discovery, Scope, verbs};
use kube::{Client, Resource as _, ResourceExt as _};
use serde_json::Value;

use crate::bench::{AT_ONCE, Bench};

impl Bench {
    /// Deletes everything of `set`.
    pub async fn clear(&self, set: &str) -> Result<()> {
        let client = &self.cluster.client;
        let prefix = ahoi_api::namespace_of(&format!("{set}-"));
        let all = self.cluster.all::<Namespace>().list_metadata(&ListParams::default()).await?;
        let theirs: Vec<String> = all.iter().map(|n| n.name_any()).filter(|name| name.starts_with(&prefix)).collect();
        let ended = theirs.iter().map(|name| end(client, name));
        stream::iter(ended).buffer_unordered(AT_ONCE).try_collect::<()>().await?;
        let kinds = Discovery::new(client.clone()).run().await?;
        let within = |object: &Found| object.namespace().is_some_and(|namespace| namespace.starts_with(&prefix));
        remove_all(client, &kinds, &Scope::Namespaced, within).await?;
        // Owners last, or garbage collection would start.
        let prefix = format!("{set}-");
        remove_all(client, &kinds, &Scope::Cluster, |object| object.name_any().starts_with(&prefix)).await
    }
}

/// Object of any kind.
type Found = PartialObjectMeta<DynamicObject>;

/// Deletes a namespace without its contents.
async fn end(client: &Client, name: &str) -> Result<()> {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let mut namespace = namespaces.get(name).await?;
    namespace.spec.get_or_insert_default().finalizers = None;
    // Ignore concurrent changes.
    namespace.metadata.resource_version = None;
    let path = format!("/api/v1/namespaces/{name}");
    let finalized = http::Request::put(format!("{path}/finalize")).header("content-type", "application/json");
    client.request::<Value>(finalized.body(serde_json::to_vec(&namespace)?)?).await?;
    // The first request only marks it as terminating.
    for _ in 0..2 {
        unless_gone(client.request::<Value>(http::Request::delete(&path).body(Vec::new())?).await)?;
    }
    Ok(())
}

/// Deletes the objects of all kinds that `counts` selects.
async fn remove_all(client: &Client, kinds: &Discovery, scope: &Scope, counts: impl Fn(&Found) -> bool) -> Result<()> {
    for (resource, can) in kinds.groups().flat_map(|group| group.recommended_resources()) {
        let listed = can.supports_operation(verbs::LIST) && can.supports_operation(verbs::DELETE);
        if can.scope != *scope || !listed {
            continue;
        }
        let objects = Api::<DynamicObject>::all_with(client.clone(), &resource);
        let paths: Vec<String> = objects
            .list_metadata(&ListParams::default())
            .await?
            .iter()
            .filter(|object| counts(object))
            .map(|object| {
                let collection = DynamicObject::url_path(&resource, object.namespace().as_deref());
                format!("{collection}/{}", object.name_any())
            })
            .collect();
        let removed = paths.iter().map(|path| remove(client, path));
        stream::iter(removed).buffer_unordered(AT_ONCE).try_collect::<()>().await?;
    }
    Ok(())
}

/// Deletes an object without its finalizers.
async fn remove(client: &Client, path: &str) -> Result<()> {
    let delete = || http::Request::delete(path).body(Vec::new());
    match client.request::<Value>(delete()?).await {
        // A finalizer blocks the deletion.
        Ok(object) if !object["metadata"]["finalizers"].is_null() => {}
        answer => return unless_gone(answer),
    }
    let without = http::Request::patch(path).header("content-type", "application/merge-patch+json");
    let without = without.body(br#"{"metadata":{"finalizers":null}}"#.to_vec())?;
    unless_gone(client.request::<Value>(without).await)
}

/// Ignores that the object does not exist.
fn unless_gone<T>(answer: kube::Result<T>) -> Result<()> {
    match answer {
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
        answer => Ok(answer.map(drop)?),
    }
}
