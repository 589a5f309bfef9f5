//! Other customers come and go.

use std::time::{Duration, Instant};

use ahoi_e2e::Cluster;
use ahoi_e2e::customers::GONE;
use anyhow::{Context as _, Result, ensure};
use kube::api::DeleteParams;
use serde_json::json;

use crate::{ONE_AT_A_TIME, booking};

/// How many, unless LEDGER_CUSTOMERS says.
const MANY: usize = 300;

#[tokio::test]
async fn many_customers_come_and_go() -> Result<()> {
    let _alone = ONE_AT_A_TIME.lock().await;
    let cluster = Cluster::connect().await?;
    let many = match std::env::var("LEDGER_CUSTOMERS") {
        Ok(text) => text.parse().context("LEDGER_CUSTOMERS")?,
        Err(_) => MANY,
    };
    let names: Vec<String> = (0..many).map(|n| format!("ledger-other-{n:03}")).collect();
    let outcome = booking(&cluster, "customers", async |ledger| {
        let reloads = reloads(&cluster).await?;
        let started = Instant::now();
        for name in &names {
            let features = json!({"database": {"enabled": true, "storage": "1gb"}});
            let spec = json!({"deletionPolicy": "Delete", "features": features});
            cluster.create_customer_with(name, spec).await?;
        }
        for name in &names {
            cluster.ready(name).await?;
        }
        println!("customers: {many} are ready after {:.1?}", started.elapsed());
        ledger.progress(Duration::from_secs(30)).await?;
        let started = Instant::now();
        remove(&cluster, &names).await?;
        println!("customers: {many} are gone after {:.1?}", started.elapsed());
        coalesced(&cluster, &reloads, many).await?;
        ledger.progress(Duration::from_secs(30)).await
    })
    .await;
    // Also when it failed in the middle.
    remove(&cluster, &names).await?;
    outcome?.nothing_failed()
}

/// So far, by process.
async fn reloads(cluster: &Cluster) -> Result<Vec<(String, f64)>> {
    cluster.of_agents("ahoi_pooler_reloads_total").await
}

/// A customer is one route that comes and goes: many at once are fewer reloads than that.
async fn coalesced(cluster: &Cluster, before: &[(String, f64)], many: usize) -> Result<()> {
    let stalls = cluster.of_agents("ahoi_pooler_longest_reload_seconds").await?;
    for (((process, now), (_, before)), (_, stall)) in reloads(cluster).await?.iter().zip(before).zip(&stalls) {
        let count = now - before;
        let each = count / f64::from(u32::try_from(many)?);
        println!(
            "customers: {process}: {count} reloads, {each:.2} a customer; nobody was served for at most {:.1} ms",
            stall * 1000.0
        );
        ensure!(each < 2.0, "{process} has reloaded {count} times for {many} customers");
    }
    Ok(())
}

/// All at once: one after the other would be another test.
async fn remove(cluster: &Cluster, names: &[String]) -> Result<()> {
    for name in names {
        match cluster.customers().delete(name, &DeleteParams::default()).await {
            Err(kube::Error::Api(status)) if status.is_not_found() => {}
            answer => drop(answer?),
        }
    }
    for name in names {
        cluster.until_gone(&cluster.customers(), name, GONE * 5).await?;
    }
    Ok(())
}
