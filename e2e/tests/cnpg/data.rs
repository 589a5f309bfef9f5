//! Quota, retained data and rotated credentials survive a switchover.

use std::time::Duration;

use ahoi_api::Database;
use ahoi_e2e::Cluster;
use ahoi_e2e::refusal::refused;
use ahoi_reconcile::conditions::find;
use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};

use crate::ONE_AT_A_TIME;
use crate::engine::{Engine, REGION};
use crate::row::{CUSTOMERS, booking, features};

/// Little more than the size of an empty database. FILL adds about 30 MB.
const STORAGE: &str = "12Mi";
const FILL: &str = "INSERT INTO fill SELECT n, repeat(md5(n::text), 30) FROM generate_series(1, 30000) n";
/// Time until the former login is closed: two minutes for clients to read the Secret, and one for idle connections.
const CLOSED: Duration = Duration::from_secs(300);

#[tokio::test]
async fn a_full_database_stays_full_on_another_primary() -> Result<()> {
    let _alone = ONE_AT_A_TIME.lock().await;
    let (engine, name) = (Engine::install().await?, "cnpg-full");
    let cluster = &engine.cluster;
    let mut features = features(REGION);
    features["database"]["storage"] = json!(STORAGE);
    create(cluster, name, "Delete", features).await?;
    let session = cluster.pooled(name).await?.connect().await?;
    session.batch_execute("CREATE TABLE fill (n int, text text)").await?;
    session.batch_execute(FILL).await?;
    level(cluster, name, "StorageQuotaExceeded").await?;
    let insert = "INSERT INTO fill VALUES (0, 'too much')";
    let session = cluster.pooled(name).await?.connect().await?;
    refused(session.batch_execute(insert).await, "53100", "storage quota", insert)?;

    engine.promote().await?;
    engine.healthy().await?;
    refused(session.batch_execute(insert).await, "53100", "storage quota", "a write on another primary")?;
    session.batch_execute("DELETE FROM fill WHERE n > 10").await.context("a delete")?;
    cluster.change(name, json!({"features": {"database": {"storage": "90Mi"}}})).await?;
    level(cluster, name, "WithinStorageQuota").await?;
    session.batch_execute(insert).await.context("a write after the storage was raised")?;
    cluster.delete_customer(name).await
}

#[tokio::test]
async fn retained_data_is_found_on_another_primary() -> Result<()> {
    let _alone = ONE_AT_A_TIME.lock().await;
    let (engine, name) = (Engine::install().await?, "cnpg-retained");
    let cluster = &engine.cluster;
    create(cluster, name, "Retain", features(REGION)).await?;
    let session = cluster.pooled(name).await?.connect().await?;
    session.batch_execute("DROP TABLE IF EXISTS kept; CREATE TABLE kept AS SELECT generate_series(1, 100) n").await?;
    cluster.delete_customer(name).await?;
    engine.promote().await?;
    engine.healthy().await?;
    create(cluster, name, "Delete", features(REGION)).await?;
    let session = cluster.pooled(name).await?.connect().await?;
    let rows: i64 = session.query_one("SELECT count(*) FROM kept", &[]).await?.get(0);
    ensure!(rows == 100, "{rows} of 100 rows");
    session.batch_execute("ALTER TABLE kept ADD COLUMN more int").await.context("as the owner of its tables")?;
    cluster.delete_customer(name).await
}

/// The switchover happens while both logins are open and clients use the former one.
#[tokio::test]
async fn credentials_are_rotated_during_a_switchover() -> Result<()> {
    let _alone = ONE_AT_A_TIME.lock().await;
    let engine = Engine::install().await?;
    let cluster = &engine.cluster;
    let outcome = booking(&engine, "rotation during a promote", "not measured", REGION, async |_| {
        let (name, former) = (CUSTOMERS[0], cluster.direct(CUSTOMERS[0]).await?);
        let credentials = json!({"rotationRequest": "switchover"});
        cluster
            .patch_spec(&cluster.customers(), name, json!({"features": {"database": {"credentials": credentials}}}))
            .await?;
        engine.promote().await?;
        engine.healthy().await?;
        let (started, login) = (Instant::now(), former.get("username"));
        let closed = async {
            let can_login = format!("SELECT rolcanlogin FROM pg_roles WHERE rolname = '{login}';");
            while engine.psql(&can_login).await?.trim() != "f" {
                // PostgreSQL has no watch. The time-out around this loop bounds it.
                sleep(Duration::from_secs(1)).await;
            }
            anyhow::Ok(())
        };
        timeout(CLOSED, closed).await.with_context(|| format!("{login} is still open after {CLOSED:?}"))??;
        println!("rotation: {login} is closed {:.0?} after the switchover", started.elapsed());
        let now = cluster.pooled(name).await?;
        ensure!(now.get("username") != login, "the Secret has the former login");
        now.connect().await.context("the new login through the fleet")?;
        ensure!(former.connect().await.is_err(), "the former password is accepted");
        cluster.ready(name).await.map(drop)
    })
    .await?;
    outcome.only_in_flight()
}

async fn create(cluster: &Cluster, name: &str, policy: &str, features: Value) -> Result<()> {
    cluster.create_customer_with(name, json!({"deletionPolicy": policy, "features": features})).await?;
    cluster.ready(name).await.map(drop)
}

async fn level(cluster: &Cluster, name: &str, reason: &str) -> Result<()> {
    let has_reason = |database: Option<&Database>| {
        let conditions = database.and_then(|database| database.status.as_ref()).map(|status| &status.conditions);
        conditions.and_then(|all| find(all, "StorageQuotaOk")).is_some_and(|quota| quota.reason == reason)
    };
    let databases = cluster.of::<Database>(&ahoi_api::namespace_of(name));
    cluster.until(&databases, name, reason, 90, has_reason).await.map(drop)
}
