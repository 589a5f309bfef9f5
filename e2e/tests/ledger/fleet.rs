//! A rolling restart and scaling of the fleet.

use std::time::{Duration, Instant};

use ahoi_api::PgBouncer;
use ahoi_e2e::{Cluster, SYSTEM};
use ahoi_reconcile::is_ready;
use anyhow::Result;
use k8s_openapi::api::apps::v1::StatefulSet;
use serde_json::json;

use crate::{ONE_AT_A_TIME, booking};

/// Replicas of the demo.
const REPLICAS: i32 = 2;
/// A parameter that needs a restart of pgbouncer, with a value that is not the default.
const COLD: (&str, &str) = ("pkt_buf", "8192");

/// All processes are replaced, and the fleet is scaled up and down.
#[tokio::test]
async fn the_fleet_rolls_and_scales() -> Result<()> {
    let _alone = ONE_AT_A_TIME.lock().await;
    let cluster = Cluster::connect().await?;
    let outcome = booking(&cluster, "fleet", async |ledger| {
        for (replicas, cold) in [(3, false), (3, true), (5, true), (2, true), (2, false)] {
            settle(&cluster, replicas, cold).await?;
            ledger.progress(Duration::from_secs(30)).await?;
        }
        Ok(())
    })
    .await;
    // Also after a failure.
    settle(&cluster, REPLICAS, false).await?;
    outcome?.nothing_failed()
}

/// Sets replicas and the parameter, and waits for the rollout.
pub async fn settle(cluster: &Cluster, replicas: i32, cold: bool) -> Result<()> {
    let started = Instant::now();
    let fleets = cluster.of::<PgBouncer>(SYSTEM);
    let value = cold.then_some(COLD.1);
    // Null removes the parameter.
    cluster.patch_spec(&fleets, "global", json!({"replicas": replicas, "parameters": {(COLD.0): value}})).await?;
    let what = format!("{replicas} processes, {}", if cold { "with the parameter" } else { "without the parameter" });
    let settled = |set: Option<&StatefulSet>| set.is_some_and(|set| is_settled(set, replicas, cold));
    cluster.until(&cluster.of::<StatefulSet>(SYSTEM), "global", &what, 420, settled).await?;
    cluster.until(&fleets, "global", "Ready", 60, |f: Option<&PgBouncer>| f.is_some_and(is_ready)).await?;
    println!("fleet: {what}: after {:.1?}", started.elapsed());
    Ok(())
}

fn is_settled(set: &StatefulSet, replicas: i32, cold: bool) -> bool {
    let (Some(spec), Some(status)) = (&set.spec, &set.status) else { return false };
    let annotations = spec.template.metadata.as_ref().and_then(|metadata| metadata.annotations.as_ref());
    let wanted = format!("{}={}", COLD.0, COLD.1);
    annotations.is_some_and(|all| all.values().any(|value| value.contains(&wanted))) == cold
        && spec.replicas == Some(replicas)
        && status.observed_generation == set.metadata.generation
        && status.replicas == replicas
        && status.ready_replicas == Some(replicas)
        && status.current_revision == status.update_revision
}
