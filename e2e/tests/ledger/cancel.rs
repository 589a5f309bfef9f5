//! Cancel requests come over connections of their own, which may reach another process than the query.

use std::time::Duration;

use ahoi_api::PgBouncer;
use ahoi_e2e::Cluster;
use ahoi_e2e::cluster::SUITE;
use ahoi_e2e::ledger::Ledger;
use anyhow::{Context as _, Result, ensure};
use futures::future::{join_all, try_join_all};
use serde_json::json;
use tokio::time::{Instant, sleep, timeout};
use tokio_postgres::error::SqlState;
use tokio_postgres::{CancelToken, NoTls};

use crate::fleet::settle;
use crate::{ONE_AT_A_TIME, booking};

const NAME: &str = "ledger-cancel";
const PROCESSES: i32 = 3;
const AS_BEFORE: i32 = 2;
/// Every second one is cancelled.
const QUERIES: usize = 24;
/// Longer than it takes to cancel the others.
const LONG: f64 = 15.0;

/// Each finds its query, and no other, while others book.
#[tokio::test]
async fn queries_are_cancelled() -> Result<()> {
    let _alone = ONE_AT_A_TIME.lock().await;
    let cluster = Cluster::connect().await?;
    let outcome = booking(&cluster, "cancel", async |ledger| {
        settle(&cluster, PROCESSES, false).await?;
        let features = json!({"database": {"enabled": true}, "connectionPool": {"poolSize": QUERIES}});
        cluster.create_customer_with(NAME, json!({"deletionPolicy": "Delete", "features": features})).await?;
        cluster.ready(NAME).await?;
        cancelled(&cluster, ledger).await
    })
    .await;
    // Also when it failed in the middle.
    let removed = cluster.delete_customer(NAME).await;
    settle(&cluster, AS_BEFORE, false).await?;
    removed?;
    outcome?.nothing_failed()
}

async fn cancelled(cluster: &Cluster, ledger: &Ledger) -> Result<()> {
    let way = cluster.pooled(NAME).await?;
    let clients = try_join_all((0..QUERIES).map(|_| way.connect())).await?;
    let tokens: Vec<CancelToken> = clients.iter().map(tokio_postgres::Client::cancel_token).collect();
    let queries = tokio::spawn(async move {
        join_all(clients.iter().map(|client| client.query_one("SELECT pg_sleep($1)", &[&LONG]))).await
    });
    let running = timeout(Duration::from_secs(10), all_run(cluster, way.get("username"))).await;
    running.context("not all queries run within 10 s")??;

    let started = Instant::now();
    try_join_all(tokens.iter().step_by(2).map(|token| token.cancel_query(NoTls))).await.context("a cancel request")?;
    let asked = started.elapsed();
    ensure!(asked.as_secs_f64() < LONG / 2.0, "the cancel requests took {asked:?}: nothing is proved");
    for (number, answer) in queries.await?.into_iter().enumerate() {
        match answer {
            Ok(_) => ensure!(number % 2 == 1, "query {number} was not cancelled"),
            Err(error) => {
                ensure!(error.code() == Some(&SqlState::QUERY_CANCELED), "query {number} failed otherwise: {error:?}");
                ensure!(number % 2 == 0, "query {number} was cancelled, and nobody had asked for it");
            }
        }
    }
    let fleet = cluster.of::<PgBouncer>(SUITE).get("global").await?;
    println!("cancel: {} of {QUERIES} queries in {} processes, in {asked:.1?}", QUERIES / 2, fleet.spec.replicas);
    ledger.progress(Duration::from_secs(30)).await
}

async fn all_run(cluster: &Cluster, login: &str) -> Result<()> {
    let admin = cluster.admin("postgres").await?;
    // A statement that is being prepared is active, too, and cannot be cancelled a moment later.
    let query = "SELECT count(*) FROM pg_stat_activity WHERE usename = $1 AND wait_event = 'PgSleep'";
    while admin.query_one(query, &[&login]).await?.get::<_, i64>(0) < i64::try_from(QUERIES)? {
        sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}
