//! Cancel requests come over connections of their own, which may reach another process than the query.

use std::time::Duration;

use ahoi_api::PgBouncer;
use ahoi_e2e::ledger::Ledger;
use ahoi_e2e::{Cluster, SYSTEM};
use anyhow::{Context as _, Result, ensure};
use futures::future::{join_all, try_join_all};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, duplex};
use tokio::net::TcpStream;
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
    // One after the other: of those that come to one process for the same other one while it connects to it, pgbouncer
    // passes one on and the rest only when one more comes (per_loop_maint in its janitor.c passes over peers).
    for token in tokens.iter().step_by(2) {
        cancel(token, way.address()).await.context("a cancel request")?;
    }
    let asked = started.elapsed();
    ensure!(asked.as_secs_f64() < LONG / 2.0, "the cancel requests took {asked:?}: nothing is proved");
    let mut went_on = Vec::new();
    for (number, answer) in queries.await?.into_iter().enumerate() {
        match answer {
            Ok(_) if number % 2 == 0 => went_on.push(number),
            Ok(_) => {}
            Err(error) => {
                ensure!(error.code() == Some(&SqlState::QUERY_CANCELED), "query {number} failed otherwise: {error:?}");
                ensure!(number % 2 == 0, "query {number} was cancelled, and nobody had asked for it");
            }
        }
    }
    ensure!(went_on.is_empty(), "of the queries 0, 2, 4, … these were not cancelled: {went_on:?}");
    let fleet = cluster.of::<PgBouncer>(SYSTEM).get("global").await?;
    println!("cancel: {} of {QUERIES} queries in {} processes, in {asked:.1?}", QUERIES / 2, fleet.spec.replicas);
    ledger.progress(Duration::from_secs(30)).await
}

/// Asks as libpq does, which waits until the connection is closed. pgbouncer passes a request on by a connection that it may
/// have to make first, and forgets the request when whoever asked has gone meanwhile; tokio-postgres does not wait.
async fn cancel(token: &CancelToken, address: &str) -> Result<()> {
    let (asking, mut request) = duplex(64);
    token.cancel_query_raw(asking, NoTls).await?;
    let mut stream = TcpStream::connect((address, 6432)).await?;
    tokio::io::copy(&mut request, &mut stream).await?;
    let closed = timeout(Duration::from_secs_f64(LONG / 2.0), stream.read_u8()).await;
    ensure!(matches!(closed, Ok(Err(_))), "a cancel request was answered, or not at all");
    Ok(())
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
