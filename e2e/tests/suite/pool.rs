//! A customer's place in the fleet: routable at once, changed without a failed query, removed in the safe order.

use ahoi_api::{Customer, PgBouncer};
use ahoi_e2e::Cluster;
use ahoi_e2e::cluster::SUITE;
use anyhow::{Context as _, Result, ensure};
use serde_json::json;

/// Ready is said of a pool only when every process has proved it, and each process says what it has loaded.
#[tokio::test]
async fn every_process_proves_what_it_has_loaded() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let name = "pool-proof";
    cluster.create_customer(name, json!({"database": {"enabled": true}})).await?;
    cluster.ready(name).await?;
    let fleet = cluster.of::<PgBouncer>(SUITE).get("global").await?;
    let replicas = usize::try_from(fleet.spec.replicas)?;
    let processes = fleet.status.context("a fleet without a status")?.processes;
    ensure!(processes.len() == replicas, "{} of {replicas} processes report", processes.len());
    for process in &processes {
        ensure!(process.error.is_none() && process.refused.is_empty() && process.routes > 0, "{process:?}");
    }
    cluster.delete_customer(name).await
}

/// The address of the fleet knows known customers only, and each only with its own password.
#[tokio::test]
async fn strangers_are_refused() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let name = "pool-strangers";
    cluster.create_customer(name, json!({"database": {"enabled": true}})).await?;
    cluster.ready(name).await?;
    let pooled = cluster.pooled(name).await?;
    for database in ["postgres", "template1", "no_such_database", "pgbouncer"] {
        ensure!(
            pooled.clone().to_database(database).connect().await.is_err(),
            "{database} is reachable through the fleet"
        );
    }
    let mut wrong = pooled.clone();
    wrong.entries.insert("password".into(), "wrong".into());
    ensure!(wrong.connect().await.is_err(), "a wrong password is accepted");
    let mut admin = pooled.clone();
    admin.entries.insert("username".into(), "postgres".into());
    ensure!(admin.connect().await.is_err(), "the superuser is reachable through the fleet");
    cluster.delete_customer(name).await
}

/// Clients of one customer see nothing of others coming, changing and going.
#[tokio::test]
async fn others_come_and_go_without_a_failed_query() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let name = "pool-steady";
    cluster.create_customer(name, json!({"database": {"enabled": true}})).await?;
    cluster.ready(name).await?;
    let pooled = cluster.pooled(name).await?;
    let (stop, mut stopped) = tokio::sync::watch::channel(false);
    let steady = tokio::spawn(async move {
        let client = pooled.connect().await?;
        let mut queries = 0_u64;
        while !*stopped.borrow_and_update() {
            client
                .query_one("SELECT pg_sleep(0.005)", &[])
                .await
                .with_context(|| format!("after {queries} queries"))?;
            queries += 1;
        }
        anyhow::Ok(queries)
    });
    for round in 0..2 {
        let other = format!("pool-other-{round}");
        cluster.create_customer(&other, json!({"database": {"enabled": true}})).await?;
        cluster.ready(&other).await?;
        cluster
            .change(&other, json!({"features": {"connectionPool": {"poolSize": 3, "maxClientConnections": 50}}}))
            .await?;
        cluster.delete_customer(&other).await?;
    }
    stop.send(true)?;
    let queries = steady.await??;
    println!("{queries} queries while other customers came, changed and went; none failed");
    ensure!(queries > 100, "only {queries} queries");
    cluster.delete_customer(name).await
}

/// A transaction that runs when its customer is deleted is waited for, within bounds.
#[tokio::test]
async fn removal_waits_for_running_transactions() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let name = "pool-removal";
    cluster.create_customer(name, json!({"database": {"enabled": true}})).await?;
    cluster.ready(name).await?;
    let client = cluster.pooled(name).await?.connect().await?;
    let running = tokio::spawn(async move { client.query_one("SELECT pg_sleep(2)", &[]).await });
    let customers = cluster.customers();
    customers.delete(name, &kube::api::DeleteParams::default()).await?;
    running.await?.context("a transaction that ran when the pool was removed")?;
    let gone = |c: Option<&Customer>| c.is_none();
    cluster.until(&customers, name, "gone", 120, gone).await?;
    Ok(())
}
