//! The primary is shut down, killed, or replaced by an unsupervised update.

use ahoi_e2e::processes;
use anyhow::{Context as _, Result};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use kube::api::DeleteParams;

use crate::ONE_AT_A_TIME;
use crate::engine::{Engine, NAMESPACE, REGION};
use crate::row::booking;

/// CloudNativePG waits up to 180 s for the clients of a primary that shuts down, so no session of ours may stay.
#[tokio::test]
async fn the_primary_is_deleted() -> Result<()> {
    let _alone = ONE_AT_A_TIME.lock().await;
    let engine = Engine::install().await?;
    engine.configure("unsupervised", 180).await?;
    let outcome = booking(&engine, "primary's pod deleted", "0, 36 and 87 s", REGION, async |_| {
        delete_primary(&engine, None).await?;
        engine.healthy().await
    })
    .await?;
    outcome.nothing_failed()?;
    outcome.within(30)
}

#[tokio::test]
async fn the_primary_is_deleted_by_force() -> Result<()> {
    let _alone = ONE_AT_A_TIME.lock().await;
    let engine = Engine::install().await?;
    let outcome = booking(&engine, "primary's pod deleted by force", "0, 20 s", REGION, async |_| {
        delete_primary(&engine, Some(0)).await?;
        engine.healthy().await
    })
    .await?;
    outcome.only_in_flight()
}

#[tokio::test]
async fn the_postmaster_is_killed() -> Result<()> {
    let _alone = ONE_AT_A_TIME.lock().await;
    let engine = Engine::install().await?;
    let outcome = booking(&engine, "postmaster killed", "4 + 5, 12 s", REGION, async |_| {
        let pod = primary(&engine).await?;
        let of_pod = processes::of(&pod.uid().context("a pod without a uid")?);
        let postmaster: Vec<_> =
            of_pod.into_iter().filter(|process| process.command.starts_with("postgres -D")).collect();
        processes::kill(&postmaster).await?;
        replaced(&engine, &pod).await
    })
    .await?;
    outcome.only_in_flight()
}

/// Kills the first process of each container.
#[tokio::test]
async fn the_pod_of_the_primary_is_killed() -> Result<()> {
    let _alone = ONE_AT_A_TIME.lock().await;
    let engine = Engine::install().await?;
    let outcome = booking(&engine, "primary's pod killed", "11 + 0, 10 s", REGION, async |_| {
        let pod = primary(&engine).await?;
        let of_pod = processes::of(&pod.uid().context("a pod without a uid")?);
        processes::kill(&of_pod.into_iter().filter(|process| process.is_first).collect::<Vec<_>>()).await?;
        replaced(&engine, &pod).await
    })
    .await?;
    outcome.only_in_flight()
}

#[tokio::test]
async fn all_instances_are_restarted() -> Result<()> {
    let _alone = ONE_AT_A_TIME.lock().await;
    rolling_restart("rolling restart", "0, 79 s", 180).await
}

#[tokio::test]
async fn all_instances_are_restarted_with_a_short_smart_shutdown() -> Result<()> {
    let _alone = ONE_AT_A_TIME.lock().await;
    rolling_restart("rolling restart, smartShutdownTimeout: 5", "0, 19 s", 5).await
}

async fn rolling_restart(row: &str, former: &str, smart_shutdown_seconds: i32) -> Result<()> {
    let engine = Engine::install().await?;
    engine.configure("unsupervised", smart_shutdown_seconds).await?;
    let outcome = booking(&engine, row, former, REGION, async |_| {
        let at = engine.restart().await?;
        engine.restarted(&at).await
    })
    .await?;
    outcome.nothing_failed()?;
    outcome.within(30)
}

async fn primary(engine: &Engine) -> Result<Pod> {
    let name = engine.primary().await?;
    Ok(engine.cluster.of::<Pod>(NAMESPACE).get(&name).await?)
}

async fn delete_primary(engine: &Engine, grace_seconds: Option<u32>) -> Result<()> {
    let pod = primary(engine).await?;
    let params = DeleteParams { grace_period_seconds: grace_seconds, ..DeleteParams::default() };
    engine.cluster.of::<Pod>(NAMESPACE).delete(&pod.name_any(), &params).await?;
    replaced(engine, &pod).await
}

/// Waits until the pod is replaced or its container restarted, and the Cluster is healthy.
async fn replaced(engine: &Engine, before: &Pod) -> Result<()> {
    let restarts = |pod: &Pod| -> i32 {
        let containers = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
        containers.into_iter().flatten().map(|container| container.restart_count).sum()
    };
    let is_another =
        |pod: Option<&Pod>| pod.is_some_and(|pod| pod.uid() != before.uid() || restarts(pod) > restarts(before));
    let pods = engine.cluster.of::<Pod>(NAMESPACE);
    engine.cluster.until(&pods, &before.name_any(), "replaced or restarted", 240, is_another).await?;
    engine.healthy().await
}
