//! Cancel requests use their own connections, which may reach another process than the query.

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
/// Number of queries. Every second one is cancelled.
const QUERIES: usize = 24;
/// Seconds that a query takes: longer than the cancel requests.
const LONG: f64 = 15.0;

/// Each cancel request cancels only its own query, while others book.
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
    // Also after a failure.
    let removed = cluster.delete_customer(NAME).await;
    settle(&cluster, AS_BEFORE, false).await?;
    removed?;
    outcome?.nothing_failed()
}

async fn cancelled(cluster: &Cluster, ledger: &Ledger) -> Result<()> {
    let login = cluster.pooled(NAME).await?;
    let clients = try_join_all((0..QUERIES).map(|_| login.connect())).await?;
    let tokens: Vec<CancelToken> = clients.iter().map(tokio_postgres::Client::cancel_token).collect();
    let queries = tokio::spawn(async move {
        join_all(clients.iter().map(|client| client.query_one("SELECT pg_sleep($1)", &[&LONG]))).await
    });
    let running = timeout(Duration::from_secs(10), all_run(cluster, login.get("username"))).await;
    running.context("not all queries run within 10 s")??;

    let started = Instant::now();
    // One after the other: of several requests that a process receives for the same peer while it connects to that peer,
    // pgbouncer forwards one, and the others only with the next request (per_loop_maint in its janitor.c skips peers).
    for token in tokens.iter().step_by(2) {
        cancel(token, login.address()).await.context("a cancel request")?;
    }
    let asked = started.elapsed();
    ensure!(asked.as_secs_f64() < LONG / 2.0, "the cancel requests took {asked:?}, too long for a result");
    let mut went_on = Vec::new();
    for (number, answer) in queries.await?.into_iter().enumerate() {
        match answer {
            Ok(_) if number % 2 == 0 => went_on.push(number),
            Ok(_) => {}
            Err(error) => {
                ensure!(
                    error.code() == Some(&SqlState::QUERY_CANCELED),
                    "query {number} failed for another reason: {error:?}"
                );
                ensure!(number % 2 == 0, "query {number} was cancelled without a request");
            }
        }
    }
    ensure!(went_on.is_empty(), "not cancelled: {went_on:?}");
    let fleet = cluster.of::<PgBouncer>(SYSTEM).get("global").await?;
    println!("cancel: {} of {QUERIES} queries in {} processes, in {asked:.1?}", QUERIES / 2, fleet.spec.replicas);
    ledger.progress(Duration::from_secs(30)).await
}

/// Sends a cancel request like libpq, which waits until the connection is closed. pgbouncer may have to connect to a peer to forward
/// the request, and drops it when the client disconnects first. tokio-postgres does not wait.
async fn cancel(token: &CancelToken, address: &str) -> Result<()> {
    let (asking, mut request) = duplex(64);
    token.cancel_query_raw(asking, NoTls).await?;
    let mut stream = TcpStream::connect((address, 6432)).await?;
    tokio::io::copy(&mut request, &mut stream).await?;
    let closed = timeout(Duration::from_secs_f64(LONG / 2.0), stream.read_u8()).await;
    ensure!(matches!(closed, Ok(Err(_))), "the connection of a cancel request was not closed");
    Ok(())
}

async fn all_run(cluster: &Cluster, login: &str) -> Result<()> {
    let admin = cluster.admin("postgres").await?;
    // A statement that is being prepared is also active, but a cancel request would not reach its execution.
    let query = "SELECT count(*) FROM pg_stat_activity WHERE usename = $1 AND wait_event = 'PgSleep'";
    while admin.query_one(query, &[&login]).await?.get::<_, i64>(0) < i64::try_from(QUERIES)? {
        sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}
