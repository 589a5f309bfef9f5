//! Pools of customers: ready in all processes, changed without a failed query, moved and removed safely.

use ahoi_api::{ConnectionPool, ConnectionPoolStatus, FormerState, PgBouncer, PgBouncerSpec, namespace_of};
use ahoi_e2e::customers::READY;
use ahoi_e2e::refusal::{BY_POOLER, all, refused, refused_soon};
use ahoi_e2e::{Cluster, SYSTEM};
use ahoi_reconcile::is_ready;
use anyhow::{Context as _, Result, ensure};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::json;

/// A pool is Ready when each process has tested its route. Each process reports its routes.
#[tokio::test]
async fn every_process_reports_its_routes() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let name = "pool-proof";
    cluster.create_customer(name, json!({"database": {"enabled": true}})).await?;
    cluster.ready(name).await?;
    let fleet = cluster.of::<PgBouncer>(SYSTEM).get("global").await?;
    let replicas = usize::try_from(fleet.spec.replicas)?;
    let processes = fleet.status.context("the PgBouncer has no status")?.processes;
    ensure!(processes.len() == replicas, "{} of {replicas} processes report", processes.len());
    for process in &processes {
        ensure!(process.error.is_none() && process.refused.is_empty() && process.routes > 0, "{process:?}");
    }
    cluster.delete_customer(name).await
}

/// The fleet accepts only known databases, each with its own login.
#[tokio::test]
async fn logins_with_wrong_credentials_are_refused() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let name = "pool-strangers";
    cluster.create_customer(name, json!({"database": {"enabled": true}})).await?;
    cluster.ready(name).await?;
    let pooled = cluster.pooled(name).await?;
    let mut outcomes = Vec::new();
    for database in ["postgres", "template1", "no_such_database", "pgbouncer"] {
        let session = pooled.clone().to_database(database).connect().await;
        outcomes.push(refused(session, BY_POOLER, "SASL authentication failed", database));
    }
    let mut wrong = pooled.clone();
    wrong.entries.insert("password".into(), "wrong".into());
    outcomes.push(refused(wrong.connect().await, BY_POOLER, "SASL authentication failed", "a wrong password"));
    let mut admin = pooled.clone();
    admin.entries.insert("username".into(), "postgres".into());
    outcomes.push(refused(
        admin.connect().await,
        BY_POOLER,
        "SASL authentication failed",
        "the superuser through the fleet",
    ));
    all(outcomes)?;
    cluster.delete_customer(name).await
}

/// Clients of a customer do not notice that others are created, changed and deleted.
#[tokio::test]
async fn changes_of_other_customers_fail_no_query() -> Result<()> {
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
    println!("{queries} queries while other customers were created, changed and deleted; none failed");
    ensure!(queries > 100, "only {queries} queries");
    cluster.delete_customer(name).await
}

/// The removal waits, for a limited time, for a transaction that runs when the customer is deleted.
#[tokio::test]
async fn removal_of_a_pool_waits_for_running_transactions() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let name = "pool-removal";
    cluster.create_customer(name, json!({"database": {"enabled": true}})).await?;
    cluster.ready(name).await?;
    let client = cluster.pooled(name).await?.connect().await?;
    let running = tokio::spawn(async move { client.query_one("SELECT pg_sleep(2)", &[]).await });
    let customers = cluster.customers();
    customers.delete(name, &kube::api::DeleteParams::default()).await?;
    running.await?.context("a transaction that ran during the removal")?;
    cluster.until_gone(&customers, name, 120).await
}

/// Returns the states of the former shards of a pool.
fn leaves(pool: Option<&ConnectionPool>) -> Option<Vec<FormerState>> {
    let status: &ConnectionPoolStatus = pool?.status.as_ref()?;
    Some(status.former_places.iter().map(|former| former.state).collect())
}

/// A pool moves to another fleet: running transactions finish, clients with the former Secret can connect for some minutes, and
/// then the former fleet drops the route.
#[tokio::test]
async fn a_move_to_another_fleet_ends_no_transaction() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let (name, other) = ("pool-moves", "elsewhere");
    let fleets = cluster.of::<PgBouncer>(SYSTEM);
    cluster.delete_customer(name).await?;
    cluster.delete(&fleets, other, 60).await?;
    let spec: PgBouncerSpec = serde_json::from_value(json!({"replicas": 1}))?;
    fleets.create(&PostParams::default(), &PgBouncer::new(other, spec)).await?;
    cluster.until(&fleets, other, "Ready", READY, |fleet: Option<&PgBouncer>| fleet.is_some_and(is_ready)).await?;
    cluster.create_customer(name, json!({"database": {"enabled": true}})).await?;
    cluster.ready(name).await?;
    let before = cluster.pooled(name).await?;
    let client = before.connect().await?;
    client.batch_execute("BEGIN").await?;
    let asked = "SELECT pg_current_xact_id()::text FROM pg_sleep(3)";
    let transaction: String = client.query_one(asked, &[]).await?.get(0);

    let there = json!({"pgBouncerRef": {"namespace": SYSTEM, "name": other}});
    cluster.change(name, json!({"features": {"connectionPool": there}})).await?;
    let after = cluster.pooled(name).await?;
    ensure!(after.get("host") == format!("{other}.{SYSTEM}.svc"), "the Secret points to {}", after.get("host"));
    after.connect().await?.query_one("SELECT 1", &[]).await?;
    let late = before.connect().await.context("a client with the former Secret")?;
    late.query_one("SELECT 1", &[]).await?;
    drop(late);
    let same: String = client.query_one(asked, &[]).await.context("a transaction during the move")?.get(0);
    ensure!(same == transaction, "transaction {same} instead of {transaction}");
    client.batch_execute("COMMIT").await?;

    // The move was some minutes ago.
    let pools = cluster.of::<ConnectionPool>(&namespace_of(name));
    let left = |pool: Option<&ConnectionPool>| leaves(pool).is_some_and(|states| states == [FormerState::Left]);
    let pool = cluster.until(&pools, name, "moved to the new fleet", READY, left).await?;
    let mut former = pool.and_then(|pool| pool.status).context("a pool without a status")?.former_places;
    former[0].since = Time("2026-01-01T00:00:00Z".parse()?);
    let past = Patch::Merge(json!({"status": {"formerPlaces": former}}));
    pools.patch_status(name, &PatchParams::default(), &past).await?;
    let retry = Patch::Merge(json!({"metadata": {"annotations": {"example.com/retry": "1"}}}));
    pools.patch(name, &PatchParams::default(), &retry).await?;
    let gone = |pool: Option<&ConnectionPool>| leaves(pool).is_some_and(|states| states.is_empty());
    cluster.until(&pools, name, "removed from the former fleet", READY, gone).await?;
    refused_soon(&before, BY_POOLER, "SASL authentication failed", "the former fleet").await?;
    after.connect().await?.query_one("SELECT 1", &[]).await?;
    cluster.delete_customer(name).await?;
    cluster.delete(&fleets, other, 60).await
}
