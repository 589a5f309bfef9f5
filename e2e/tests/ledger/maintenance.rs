//! Planned restart of PostgreSQL: clients wait, and none fails.

use std::time::{Duration, SystemTime};

use ahoi_api::{DatabaseServer, MaintenanceState};
use ahoi_e2e::Cluster;
use ahoi_e2e::ledger::Ledger;
use anyhow::{Result, ensure};
use serde_json::json;
use tokio::time::Instant;

use crate::outage::{SERVER, back_again};
use crate::pod::replace_pod;
use crate::{ONE_AT_A_TIME, booking};

#[tokio::test]
async fn postgresql_is_restarted_as_planned() -> Result<()> {
    let _alone = ONE_AT_A_TIME.lock().await;
    let cluster = Cluster::connect().await?;
    let outcome = booking(&cluster, "maintenance", async |ledger| {
        restarted(&cluster, ledger).await?;
        withdrawn(&cluster, ledger).await?;
        forgotten(&cluster, ledger).await
    })
    .await;
    // Also after a failure.
    cluster.patch_spec(&cluster.all::<DatabaseServer>(), SERVER, json!({"maintenance": null})).await?;
    outcome?.nothing_failed()
}

/// As documented: request, wait, restart.
async fn restarted(cluster: &Cluster, ledger: &Ledger) -> Result<()> {
    request(cluster, 55).await?;
    ready_to_restart(cluster).await?;
    replace_pod(cluster).await?;
    let started = Instant::now();
    back_again(cluster, "maintenance", ledger).await?;
    becomes(cluster, MaintenanceState::Done).await?;
    println!("maintenance: done {:.1?} after the new pod", started.elapsed());
    Ok(())
}

/// The request is withdrawn.
async fn withdrawn(cluster: &Cluster, ledger: &Ledger) -> Result<()> {
    request(cluster, 55).await?;
    ready_to_restart(cluster).await?;
    cluster.patch_spec(&cluster.all::<DatabaseServer>(), SERVER, json!({"maintenance": null})).await?;
    ledger.progress(Duration::from_secs(5)).await
}

/// No restart follows, and the request times out.
async fn forgotten(cluster: &Cluster, ledger: &Ledger) -> Result<()> {
    request(cluster, 5).await?;
    becomes(cluster, MaintenanceState::TimedOut).await?;
    ledger.progress(Duration::from_secs(5)).await
}

async fn request(cluster: &Cluster, seconds: i32) -> Result<()> {
    let request = format!("ledger {}", SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_millis());
    let maintenance = json!({"maintenance": {"request": request, "timeoutSeconds": seconds}});
    cluster.patch_spec(&cluster.all::<DatabaseServer>(), SERVER, maintenance).await.map(drop)
}

async fn ready_to_restart(cluster: &Cluster) -> Result<()> {
    let started = Instant::now();
    let name = format!("dbserver/{SERVER}");
    cluster.kubectl(&["wait", "--for=condition=ReadyToRestart", &name, "--timeout=30s"], "").await?;
    println!("maintenance: ready to restart after {:.1?}", started.elapsed());
    let row = cluster.kubectl(&["get", &name], "").await?;
    ensure!(row.contains("Ready to restart"), "kubectl get does not show it:\n{row}");
    Ok(())
}

async fn becomes(cluster: &Cluster, state: MaintenanceState) -> Result<()> {
    let is = |server: Option<&DatabaseServer>| {
        let maintenance = server.and_then(|server| server.status.as_ref()?.maintenance.as_ref());
        maintenance.is_some_and(|maintenance| maintenance.state == state)
    };
    cluster.until(&cluster.all(), SERVER, &format!("maintenance {state:?}"), 60, is).await.map(drop)
}
