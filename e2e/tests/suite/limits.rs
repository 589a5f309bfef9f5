//! Limits of a customer in the fleet, which it cannot lift.

use std::time::Duration;

use ahoi_api::{DatabaseServer, PgBouncer};
use ahoi_e2e::refusal::{BY_POOLER, refused};
use ahoi_e2e::{Cluster, SYSTEM};
use anyhow::{Context as _, Result, ensure};
use futures::future::join_all;
use serde_json::json;
use tokio::time::{Instant, sleep, timeout};
use tokio_postgres::Client;

/// The timeouts apply although the session disables those of PostgreSQL.
#[tokio::test]
async fn the_timeouts_of_a_fleet_apply() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let name = "limits-time";
    let pool = json!({"queryTimeoutSeconds": 2, "idleTransactionTimeoutSeconds": 1});
    cluster.create_customer(name, json!({"database": {"enabled": true}, "connectionPool": pool})).await?;
    cluster.ready(name).await?;
    let pooled = cluster.pooled(name).await?;
    let disable = "SET statement_timeout = 0; SET idle_in_transaction_session_timeout = 0";

    let session = pooled.connect().await?;
    session.batch_execute(disable).await?;
    session.batch_execute("SELECT pg_sleep(1)").await.context("a query below the limit")?;
    let started = Instant::now();
    let error =
        session.batch_execute("SELECT pg_sleep(30)").await.err().context("a query of 30 s was not terminated")?;
    let took = started.elapsed();
    ensure!(took < Duration::from_secs(10), "terminated after {took:?}");
    println!("limits: a query was ended after {took:.1?}: {error}");
    refused(Err::<(), _>(error), BY_POOLER, "query timeout", "a query of 30 s")?;

    let (session, connection) = pooled.connect_watched().await?;
    session.batch_execute(disable).await?;
    session.batch_execute("BEGIN").await?;
    // pgbouncer sends the error without a query.
    let ended =
        timeout(Duration::from_secs(10), connection).await.context("an idle transaction was not terminated")??;
    refused(ended, BY_POOLER, "idle transaction timeout", "an idle transaction")?;
    drop(session);

    let mut anonymous = pooled.clone();
    anonymous.entries.insert("password".into(), String::new());
    refused(anonymous.connect().await, BY_POOLER, "SASL authentication failed", "an empty password")?;

    cluster.change(name, json!({"features": {"connectionPool": null}})).await?;
    let session = pooled.connect().await?;
    session.batch_execute("SELECT pg_sleep(3)").await.context("a query without limits")?;
    cluster.delete_customer(name).await
}

/// Clients beyond the limit are disconnected or refused within seconds, and the others are served.
#[tokio::test]
async fn clients_beyond_the_limit_are_refused() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let name = "limits-clients";
    let pool = json!({"maxClientConnections": 2});
    cluster.create_customer(name, json!({"database": {"enabled": true}, "connectionPool": pool})).await?;
    cluster.ready(name).await?;
    let processes = cluster.of::<PgBouncer>(SYSTEM).get("global").await?.spec.replicas;
    let most = usize::try_from(processes * 2)?;
    let pooled = cluster.pooled(name).await?;
    let mut sessions: Vec<Client> =
        join_all((0..most * 6).map(|_| pooled.connect())).await.into_iter().filter_map(Result::ok).collect();
    let opened = sessions.len();
    ensure!(opened >= most, "{opened} sessions, {most} are allowed");
    let ended = async {
        loop {
            sessions.retain(|session| !session.is_closed());
            if sessions.len() <= most {
                return;
            }
            sleep(Duration::from_millis(100)).await;
        }
    };
    timeout(Duration::from_secs(10), ended).await.context("clients beyond the limit stay connected for 10 s")?;
    println!("limits: {} of {opened} sessions remain", sessions.len());
    for session in &sessions {
        session.query_one("SELECT 1", &[]).await?;
    }
    if sessions.len() == most {
        refused(pooled.connect().await, BY_POOLER, "is disabled", "a client beyond the limit")?;
    }
    drop(sessions);
    cluster.pooled_again(name, 10).await?.query_one("SELECT 1", &[]).await?;
    cluster.delete_customer(name).await
}

/// The database controller reports the connections of a server, which the agents divide.
#[tokio::test]
async fn a_server_reports_its_max_connections() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let server = cluster.all::<DatabaseServer>().get("demo").await?;
    let has: String = cluster.admin("postgres").await?.query_one("SHOW max_connections", &[]).await?.get(0);
    let reported =
        server.status.and_then(|status| status.max_connections).context("status.maxConnections is not set")?;
    ensure!((1..has.parse()?).contains(&reported), "{reported} of {has} connections");
    Ok(())
}
