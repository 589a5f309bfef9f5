//! The pod of PostgreSQL is deleted, without a word to the suite, and comes back with its data.

use ahoi_e2e::Cluster;
use ahoi_e2e::cluster::SUITE;
use anyhow::{Context as _, Result};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use kube::api::DeleteParams;
use tokio::time::Instant;

use crate::outage::{POD, back_again, only_in_flight};
use crate::{ONE_AT_A_TIME, booking};

#[tokio::test]
async fn the_pod_of_postgresql_is_deleted() -> Result<()> {
    let _alone = ONE_AT_A_TIME.lock().await;
    let cluster = Cluster::connect().await?;
    let outcome = booking(&cluster, "pod", async |ledger| {
        replace_pod(&cluster).await?;
        back_again(&cluster, "pod", ledger).await
    })
    .await?;
    only_in_flight(&outcome)
}

/// Deletes it as `kubectl delete pod` does, and waits until another one runs.
pub async fn replace_pod(cluster: &Cluster) -> Result<()> {
    let (pods, started) = (cluster.of::<Pod>(SUITE), Instant::now());
    let before = pods.get(POD).await?.uid().context("a pod without a uid")?;
    pods.delete(POD, &DeleteParams::default()).await?;
    let another = |pod: Option<&Pod>| {
        let Some(pod) = pod.filter(|pod| pod.uid().is_some_and(|uid| uid != before)) else { return false };
        pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Running")
    };
    cluster.until(&pods, POD, "another one runs", 120, another).await?;
    println!("another pod of PostgreSQL runs after {:.1?}", started.elapsed());
    Ok(())
}
