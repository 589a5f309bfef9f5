//! Planned and unplanned switchovers.

use std::time::SystemTime;

use ahoi_api::{DatabaseServer, MaintenanceState};
use ahoi_e2e::Cluster;
use anyhow::Result;
use serde_json::json;
use tokio::time::Instant;

use crate::ONE_AT_A_TIME;
use crate::engine::{Engine, LOOKUP, NAME, REGION};
use crate::row::booking;

/// As in the guide: request, wait, promote.
#[tokio::test]
async fn a_planned_switchover_fails_no_query() -> Result<()> {
    let _alone = ONE_AT_A_TIME.lock().await;
    let engine = Engine::install().await?;
    let outcome = booking(&engine, "maintenance, then promote", "0 + 0, 10.9 s", REGION, async |_| {
        planned(&engine).await?;
        engine.healthy().await
    })
    .await;
    withdraw(&engine.cluster).await?;
    outcome?.nothing_failed()
}

/// A rolling update stops before the primary, and continues with a planned switchover.
#[tokio::test]
async fn a_supervised_update_fails_no_query() -> Result<()> {
    let _alone = ONE_AT_A_TIME.lock().await;
    let engine = Engine::install().await?;
    engine.configure("supervised", 5).await?;
    let outcome = booking(&engine, "supervised update, maintenance, promote", "0 + 0, 8.8 s", REGION, async |_| {
        let update = engine.restart().await?;
        engine.waits_for_user().await?;
        planned(&engine).await?;
        engine.restarted(&update).await
    })
    .await;
    withdraw(&engine.cluster).await?;
    outcome?.nothing_failed()
}

#[tokio::test]
async fn an_unplanned_switchover_fails_only_queries_in_flight() -> Result<()> {
    let _alone = ONE_AT_A_TIME.lock().await;
    let engine = Engine::install().await?;
    promoted(&engine, "promote without warning, File", "4 + 4 a run, 10.0 s", REGION).await
}

#[tokio::test]
async fn an_unplanned_switchover_fails_only_queries_in_flight_with_lookup() -> Result<()> {
    let _alone = ONE_AT_A_TIME.lock().await;
    let engine = Engine::install().await?;
    engine.lookup_server().await?;
    promoted(&engine, "promote without warning, Lookup", "7 + 0.3 a run, 10.0 s", LOOKUP).await
}

async fn promoted(engine: &Engine, row: &str, former: &str, region: &str) -> Result<()> {
    let outcome = booking(engine, row, former, region, async |_| {
        engine.promote().await?;
        engine.healthy().await
    })
    .await?;
    outcome.only_in_flight()
}

async fn planned(engine: &Engine) -> Result<()> {
    let cluster = &engine.cluster;
    let (servers, started) = (cluster.all::<DatabaseServer>(), Instant::now());
    let request = format!("switchover {}", SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_millis());
    cluster.patch_spec(&servers, NAME, json!({"maintenance": {"request": request}})).await?;
    let name = format!("dbserver/{NAME}");
    cluster.kubectl(&["wait", "--for=condition=ReadyToRestart", &name, "--timeout=30s"], "").await?;
    println!("maintenance: ready to restart after {:.1?}", started.elapsed());
    let started = Instant::now();
    engine.promote().await?;
    println!("maintenance: new primary after {:.1?}", started.elapsed());
    let done = |server: Option<&DatabaseServer>| {
        let maintenance = server.and_then(|server| server.status.as_ref()?.maintenance.as_ref());
        maintenance.is_some_and(|found| found.request == request && found.state == MaintenanceState::Done)
    };
    cluster.until(&servers, NAME, "the maintenance is Done", 60, done).await?;
    println!("maintenance: done after {:.1?}", started.elapsed());
    Ok(())
}

async fn withdraw(cluster: &Cluster) -> Result<()> {
    cluster.patch_spec(&cluster.all::<DatabaseServer>(), NAME, json!({"maintenance": null})).await.map(drop)
}
