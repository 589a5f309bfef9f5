//! Unauthenticated clients flood the pool of a customer.

use std::time::Duration;

use ahoi_e2e::Cluster;
use ahoi_e2e::ledger::Ledger;
use ahoi_e2e::postgres::Login;
use ahoi_e2e::strangers::{Flood, Stranger};
use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::{ONE_AT_A_TIME, booking};

const NAME: &str = "ledger-strangers";
/// More connections than the customer may have in all processes.
const CONNECTIONS: usize = 2400;
const LASTING: Duration = Duration::from_secs(120);
const LOGINS: u32 = 100;

/// Logins of the customer succeed, other customers are at most half as fast, and the flood is reported.
#[tokio::test]
async fn unauthenticated_clients_flood() -> Result<()> {
    let _alone = ONE_AT_A_TIME.lock().await;
    let cluster = Cluster::connect().await?;
    let features = json!({"database": {"enabled": true}});
    cluster.create_customer_with(NAME, json!({"deletionPolicy": "Delete", "features": features})).await?;
    let outcome = async {
        cluster.ready(NAME).await?;
        booking(&cluster, "strangers", async |ledger| flooded(&cluster, ledger).await).await
    };
    let outcome = outcome.await;
    // Also after a failure.
    cluster.delete_customer(NAME).await?;
    outcome?.nothing_failed()
}

async fn flooded(cluster: &Cluster, ledger: &Ledger) -> Result<()> {
    let victim = cluster.pooled(NAME).await?;
    let address = (victim.address(), victim.get("port").parse()?);
    ledger.progress(Duration::from_secs(30)).await?;
    let latencies = ledger.latencies();
    let _ = latencies.take();
    sleep(Duration::from_secs(30)).await;
    let before = latencies.take();
    println!("strangers: before: {before}");

    let (user, database) = (victim.get("username"), victim.get("database"));
    let flood = Flood::start(CONNECTIONS, Stranger::Startup, address, user, database).await?;
    let failed = logins(&victim).await;
    let during = latencies.take();
    println!("strangers: during: {during}; {} of {} connections are open", flood.open(), flood.opened());
    println!("strangers: {} of {LOGINS} logins failed: {failed:?}", failed.len());
    let reported = cluster.of_agents("ahoi_pooler_login_flood").await?;
    ensure!(reported.iter().all(|(_, value)| *value == 1.0), "not reported: {reported:?}");
    ensure!(flood.open() > CONNECTIONS / 2, "only {} connections are open, too few for a flood", flood.open());
    drop(flood);
    ensure!(failed.is_empty(), "{} of {LOGINS} logins failed: {}", failed.len(), failed[0]);
    let ratio = during.p99.as_secs_f64() / before.p99.as_secs_f64();
    ensure!(ratio <= 2.0, "p99 was {:?} and is {:?}, {ratio:.2} times as much", before.p99, during.p99);

    let over = async {
        while cluster.of_agents("ahoi_pooler_login_flood").await?.iter().any(|(_, value)| *value > 0.0) {
            sleep(Duration::from_secs(1)).await;
        }
        anyhow::Ok(())
    };
    timeout(Duration::from_secs(60), over).await.context("the flood is still reported 60 s after its end")?
}

/// Logs in repeatedly. Returns the errors.
async fn logins(victim: &Login) -> Vec<String> {
    let begun = Instant::now();
    let mut failed = Vec::new();
    for login in 0..LOGINS {
        sleep_until(begun + LASTING * login / LOGINS).await;
        let asked = async { anyhow::Ok(victim.connect().await?.query_one("SELECT 1", &[]).await?) };
        match timeout(Duration::from_secs(10), asked).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => failed.push(format!("{error:#}")),
            Err(_) => failed.push("no answer within 10 s".to_owned()),
        }
    }
    failed
}
