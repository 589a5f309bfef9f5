//! Foreground deletion that no admission policy denies: Kubernetes deletes the children first.

use ahoi_api::Customer;
use ahoi_e2e::Cluster;
use anyhow::{Context as _, Result};
use k8s_openapi::api::events::v1::Event;
use kube::ResourceExt;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use serde_json::json;

use crate::ALONE;
use crate::world::{database_of, is_as_before, kept_by, purge, world};

#[tokio::test]
async fn a_foreground_deletion_completes_like_any_other() -> Result<()> {
    let _alone = ALONE.lock().await;
    let cluster = Cluster::connect().await?;
    for policy in ["Delete", "Archive", "Retain"] {
        let name = format!("end-foreground-{}", policy.to_lowercase());
        cluster.delete_customer(&name).await?;
        let before = world(&cluster).await?;
        let spec = json!({"deletionPolicy": policy, "features": {"database": {"enabled": true}}});
        cluster.create_customer_with(&name, spec).await?;
        let customer = cluster.ready(&name).await?;
        let database = database_of(&cluster, &name).await?;
        // --cascade=foreground sets this finalizer. The policy checks the option.
        let mut finalizers = customer.finalizers().to_vec();
        finalizers.push("foregroundDeletion".to_owned());
        let patch = Patch::Merge(json!({"metadata": {"finalizers": finalizers}}));
        cluster.customers().patch(&name, &PatchParams::default(), &patch).await?;
        cluster.customers().delete(&name, &DeleteParams::default()).await?;
        cluster.until_gone::<Customer>(&cluster.customers(), &name, 120).await?;
        let kept = kept_by(&cluster, policy, &database).await?;
        is_as_before(&cluster, &before, &kept).await?;
        let note = event(&cluster, &customer, "ForegroundDeletion").await?;
        println!("ending: {policy}: {note}");
        purge(&cluster, &kept).await?;
    }
    Ok(())
}

async fn event(cluster: &Cluster, customer: &Customer, reason: &str) -> Result<String> {
    let events = cluster.all::<Event>().list(&ListParams::default()).await?;
    let found = events.into_iter().find(|event| {
        let about = event.regarding.as_ref().and_then(|regarding| regarding.uid.clone());
        event.reason.as_deref() == Some(reason) && about == customer.uid()
    });
    found.and_then(|event| event.note).with_context(|| format!("no event {reason}"))
}
