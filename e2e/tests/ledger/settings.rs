//! Changes of the image of the fleet, and of settings that pgbouncer reloads.

use std::time::{Duration, Instant};

use ahoi_api::PgBouncer;
use ahoi_e2e::{Cluster, SYSTEM};
use ahoi_reconcile::is_ready;
use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::apps::v1::StatefulSet;
use serde_json::json;
use tokio::time::{sleep, timeout};

use crate::{ONE_AT_A_TIME, booking};

/// Second tag of the image in the cluster.
const AGAIN: &str = "again";

/// A new image replaces all processes. A setting that needs no restart replaces none.
#[tokio::test]
async fn image_and_settings_change() -> Result<()> {
    let _alone = ONE_AT_A_TIME.lock().await;
    let cluster = Cluster::connect().await?;
    let outcome = booking(&cluster, "settings", async |ledger| {
        let image = image(&cluster).await?;
        let name = image.rsplit_once(':').map_or(image.as_str(), |(name, _)| name);
        roll(&cluster, Some(&format!("{name}:{AGAIN}"))).await?;
        ledger.progress(Duration::from_secs(30)).await?;
        reload(&cluster, Some("1800")).await?;
        ledger.progress(Duration::from_secs(30)).await
    })
    .await;
    // Also after a failure.
    reload(&cluster, None).await?;
    roll(&cluster, None).await?;
    outcome?.nothing_failed()
}

fn containers_image(set: &StatefulSet) -> Option<&str> {
    set.spec.as_ref()?.template.spec.as_ref()?.containers.first()?.image.as_deref()
}

async fn image(cluster: &Cluster) -> Result<String> {
    let set = cluster.of::<StatefulSet>(SYSTEM).get("global").await?;
    containers_image(&set).map(ToOwned::to_owned).context("the fleet has no image")
}

/// Sets the image (None: the default), and waits for the rollout.
async fn roll(cluster: &Cluster, wanted: Option<&str>) -> Result<()> {
    let started = Instant::now();
    let fleets = cluster.of::<PgBouncer>(SYSTEM);
    cluster.patch_spec(&fleets, "global", json!({ "image": wanted })).await?;
    let rolled = |set: Option<&StatefulSet>| {
        set.is_some_and(|set| {
            let image = containers_image(set).unwrap_or_default();
            let right = wanted.map_or(!image.ends_with(AGAIN), |wanted| image == wanted);
            let (Some(spec), Some(status)) = (&set.spec, &set.status) else { return false };
            right
                && status.observed_generation == set.metadata.generation
                && status.ready_replicas == spec.replicas
                && status.current_revision == status.update_revision
        })
    };
    let sets = cluster.of::<StatefulSet>(SYSTEM);
    cluster.until(&sets, "global", "all processes have the image", 300, rolled).await?;
    cluster.until(&fleets, "global", "Ready", 60, |f: Option<&PgBouncer>| f.is_some_and(is_ready)).await?;
    println!("settings: image {}: after {:.1?}", wanted.unwrap_or("default"), started.elapsed());
    Ok(())
}

/// Sets the lifetime of server connections, and waits until all processes have reloaded it.
async fn reload(cluster: &Cluster, lifetime: Option<&str>) -> Result<()> {
    let (sets, reloads) = (cluster.of::<StatefulSet>(SYSTEM), "ahoi_pooler_reloads_total");
    let generation = sets.get("global").await?.metadata.generation;
    let before = cluster.of_agents(reloads).await?;
    let fleets = cluster.of::<PgBouncer>(SYSTEM);
    let old = fleets.get("global").await?.spec.parameters.get("server_lifetime").cloned();
    if old.as_deref() == lifetime {
        return Ok(());
    }
    cluster.patch_spec(&fleets, "global", json!({"parameters": {"server_lifetime": lifetime}})).await?;
    let all = async {
        // Metrics have no watch. The time-out around this loop bounds it.
        loop {
            let now = cluster.of_agents(reloads).await?;
            if now.iter().zip(&before).all(|(now, before)| now.0 == before.0 && now.1 > before.1) {
                return anyhow::Ok(());
            }
            sleep(Duration::from_millis(200)).await;
        }
    };
    timeout(Duration::from_secs(30), all).await.context("not all processes reloaded the setting within 30 s")??;
    ensure!(sets.get("global").await?.metadata.generation == generation, "a reloadable setting restarted the fleet");
    println!("settings: all processes reloaded server_lifetime {lifetime:?}, none was replaced");
    Ok(())
}
