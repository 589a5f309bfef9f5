//! Other customers are created and deleted.

use std::time::{Duration, Instant};

use ahoi_e2e::Cluster;
use ahoi_e2e::customers::DELETED;
use anyhow::{Context as _, Result, ensure};
use kube::api::DeleteParams;
use serde_json::json;

use crate::{ONE_AT_A_TIME, booking};

/// Number of customers. The variable LEDGER_CUSTOMERS overrides it.
const MANY: usize = 300;

#[tokio::test]
async fn many_customers_are_created_and_deleted() -> Result<()> {
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
        println!("customers: {many} Ready after {:.1?}", started.elapsed());
        ledger.progress(Duration::from_secs(30)).await?;
        let started = Instant::now();
        remove(&cluster, &names).await?;
        println!("customers: {many} deleted after {:.1?}", started.elapsed());
        coalesced(&cluster, &reloads, many).await?;
        ledger.progress(Duration::from_secs(30)).await
    })
    .await;
    // Also after a failure.
    remove(&cluster, &names).await?;
    outcome?.nothing_failed()
}

/// Returns the number of reloads by process.
async fn reloads(cluster: &Cluster) -> Result<Vec<(String, f64)>> {
    cluster.of_agents("ahoi_pooler_reloads_total").await
}

/// Each customer adds and removes a route. Reloads must combine many of them.
async fn coalesced(cluster: &Cluster, before: &[(String, f64)], many: usize) -> Result<()> {
    let stalls = cluster.of_agents("ahoi_pooler_longest_reload_seconds").await?;
    for (((process, now), (_, before)), (_, stall)) in reloads(cluster).await?.iter().zip(before).zip(&stalls) {
        let count = now - before;
        let each = count / f64::from(u32::try_from(many)?);
        println!(
            "customers: {process}: {count} reloads, {each:.2} per customer; longest pause {:.1} ms",
            stall * 1000.0
        );
        ensure!(each < 2.0, "{process} reloaded {count} times for {many} customers");
    }
    Ok(())
}

/// Deletes all customers at once.
async fn remove(cluster: &Cluster, names: &[String]) -> Result<()> {
    for name in names {
        match cluster.customers().delete(name, &DeleteParams::default()).await {
            Err(kube::Error::Api(status)) if status.is_not_found() => {}
            answer => drop(answer?),
        }
    }
    for name in names {
        cluster.until_gone(&cluster.customers(), name, DELETED * 5).await?;
    }
    Ok(())
}
