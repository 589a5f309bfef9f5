//! A PgBouncer fleet reports why its pods do not run, with a remedy that works.

use ahoi_api::{PgBouncer, PgBouncerSpec, Plan};
use ahoi_e2e::customers::READY;
use ahoi_e2e::{Cluster, SYSTEM};
use ahoi_reconcile::{conditions, is_ready};
use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::events::v1::Event;
use kube::ResourceExt;
use kube::api::{ListParams, PostParams};
use serde_json::{Value, json};

const FLEET: &str = "faulty";
/// Seconds until a fault is in the status.
const SOON: u64 = 30;

/// Waits until the fleet is Stalled for this reason, with these words.
async fn stalled(cluster: &Cluster, reason: &str, words: &[&str], seconds: u64) -> Result<PgBouncer> {
    let says = |fleet: Option<&PgBouncer>| {
        let Some(status) = fleet.and_then(|fleet| fleet.status.as_ref()) else { return false };
        let found = conditions::find(&status.conditions, "Stalled").filter(|stalled| stalled.reason == reason);
        let ready = conditions::find(&status.conditions, "Ready").map(|ready| ready.status.as_str());
        ready == Some("False") && found.is_some_and(|found| words.iter().all(|word| found.message.contains(word)))
    };
    let fleets = cluster.of::<PgBouncer>(SYSTEM);
    let found = cluster.until(&fleets, FLEET, &format!("Stalled {reason} {words:?}"), seconds, says).await?;
    let found = found.context("the PgBouncer was deleted")?;
    let status = found.status.as_ref().context("no status")?;
    println!(
        "fleet: {}",
        conditions::find(&status.conditions, "Ready").map(|c| c.message.as_str()).unwrap_or_default()
    );
    Ok(found)
}

/// Returns an image that the node has and that is not the image of pgbouncer.
async fn worker_image(cluster: &Cluster) -> Result<String> {
    let plan = cluster.all::<Plan>().get("default").await?;
    plan.spec.features.scheduler.and_then(|scheduler| scheduler.image).context("the default Plan has no image")
}

async fn corrected(cluster: &Cluster, spec: Value) -> Result<()> {
    let fleets = cluster.of::<PgBouncer>(SYSTEM);
    cluster.patch_spec(&fleets, FLEET, spec).await?;
    let ready = |fleet: Option<&PgBouncer>| fleet.is_some_and(is_ready);
    cluster.until(&fleets, FLEET, "Ready", READY, ready).await.map(drop)
}

#[tokio::test]
async fn a_fleet_reports_why_its_pods_do_not_run() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let fleets = cluster.of::<PgBouncer>(SYSTEM);
    cluster.delete(&fleets, FLEET, 60).await?;
    let image = "localhost/no-such-image:1";
    let spec: PgBouncerSpec = serde_json::from_value(json!({"replicas": 1, "image": image}))?;
    let fleet = fleets.create(&PostParams::default(), &PgBouncer::new(FLEET, spec)).await?;
    let words = ["0 of 1 processes are ready", "faulty-0", image, "Correct spec.image of PgBouncer ahoi-system/faulty"];
    stalled(&cluster, "ImagePullBackOff", &words, SOON).await?;
    let events = cluster.of::<Event>(SYSTEM);
    let is_published = async {
        loop {
            let all = events.list(&ListParams::default()).await?;
            let about = |event: &&Event| event.regarding.as_ref().and_then(|o| o.uid.clone()) == fleet.uid();
            let found = all.iter().filter(about).find(|event| event.reason.as_deref() == Some("ImagePullBackOff"));
            if let Some(found) = found {
                ensure!(found.type_.as_deref() == Some("Warning"), "{:?}", found.type_);
                return Ok(());
            }
            // Events are published in the background. The time-out around this loop bounds it.
            tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(SOON), is_published).await.context("no event")??;
    corrected(&cluster, json!({"image": null})).await?;

    // An image without the agent: the container cannot start.
    cluster.patch_spec(&fleets, FLEET, json!({"image": worker_image(&cluster).await?})).await?;
    let words = ["faulty-0", "ahoi-pgbouncer-agent", "logs faulty-0 --previous", "spec.image"];
    // The serving pod stops first, which takes up to 80 s.
    stalled(&cluster, "CrashLoopBackOff", &words, 80 + SOON).await?;
    corrected(&cluster, json!({"image": null})).await?;

    cluster.patch_spec(&fleets, FLEET, json!({"resources": {"requests": {"cpu": "1000"}}})).await?;
    let words = ["faulty-0", "Insufficient cpu", "lower spec.resources or spec.replicas"];
    stalled(&cluster, "Unschedulable", &words, 80 + SOON).await?;
    corrected(&cluster, json!({"resources": null})).await?;
    cluster.delete(&fleets, FLEET, 60).await
}
