//! A customer exceeds its storage quota.

use std::time::{Duration, Instant};

use ahoi_api::Database;
use ahoi_e2e::Cluster;
use ahoi_e2e::customers::has_condition;
use ahoi_e2e::ledger::Ledger;
use ahoi_reconcile::conditions::find;
use anyhow::{Context as _, Result, bail, ensure};
use serde_json::json;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use crate::{ONE_AT_A_TIME, booking};

const NAME: &str = "ledger-full";
/// Little more than the size of an empty database.
const STORAGE: &str = "10Mi";
/// About 6 MB.
const FILL: &str = "INSERT INTO filling SELECT n, repeat(md5(n::text), 30) FROM generate_series(1, 6000) n";
/// Seconds until the quota reacts.
const BOUND: u64 = 60;

/// Its writes are refused until it frees storage. Its reads and deletes work, and no other customer notices.
#[tokio::test]
async fn a_customer_fills_its_storage() -> Result<()> {
    let _alone = ONE_AT_A_TIME.lock().await;
    let cluster = Cluster::connect().await?;
    let outcome = booking(&cluster, "quota", async |ledger| full_and_back(&cluster, ledger).await).await;
    cluster.delete_customer(NAME).await?;
    outcome?.nothing_failed()
}

async fn full_and_back(cluster: &Cluster, ledger: &Ledger) -> Result<()> {
    let features = json!({"database": {"enabled": true, "storage": STORAGE}});
    cluster.create_customer_with(NAME, json!({"deletionPolicy": "Delete", "features": features})).await?;
    cluster.ready(NAME).await?;
    // A session through the fleet survives the termination of server sessions.
    let session = cluster.pooled(NAME).await?.connect().await?;
    session.batch_execute("CREATE TABLE filling (n int, text text)").await?;
    session.batch_execute(FILL).await?;
    let filled = Instant::now();
    level(cluster, &["StorageQuotaExceeded"]).await?;
    println!("quota: reported after {:.1?}", filled.elapsed());
    let customer = cluster.condition(NAME, "Ready", "False", "StorageQuotaExceeded").await?;
    ensure!(
        has_condition(&customer, "StorageQuotaOk", "False", "StorageQuotaExceeded"),
        "StorageQuotaOk is not on the customer"
    );

    let refusal = refused(&session).await?;
    let direct = cluster.direct(NAME).await?.connect().await?;
    ensure!(refused(&direct).await? == refusal, "another refusal on a direct session");
    println!("quota: a write is refused: {refusal}");
    let rows: i64 = session.query_one("SELECT count(*) FROM filling", &[]).await.context("a read")?.get(0);
    ensure!(rows == 6000, "{rows} of 6000 rows");
    let deleted = session.execute("DELETE FROM filling WHERE n <= 5500", &[]).await.context("a delete")?;
    ensure!(deleted == 5500, "{deleted} of 5500 rows deleted");
    // Deleted rows occupy storage until then.
    session.batch_execute("VACUUM FULL filling").await.context("VACUUM FULL")?;
    let emptied = Instant::now();
    level(cluster, &["WithinStorageQuota", "StorageQuotaWarning"]).await?;
    println!("quota: lifted {:.1?} after storage was freed", emptied.elapsed());
    cluster.ready(NAME).await?;
    session.batch_execute("INSERT INTO filling VALUES (1, 'again')").await.context("a write afterwards")?;
    let left = "SELECT (SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal) + \
         (SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'ahoi%') + (SELECT count(*) FROM pg_event_trigger)";
    let left: i64 = cluster.direct(NAME).await?.connect().await?.query_one(left, &[]).await?.get(0);
    ensure!(left == 0, "{left} objects of the quota are left in the database");
    ledger.progress(Duration::from_secs(30)).await
}

async fn level(cluster: &Cluster, reasons: &[&str]) -> Result<()> {
    let databases = cluster.of::<Database>(&ahoi_api::namespace_of(NAME));
    let reports = |database: Option<&Database>| {
        let conditions = database.and_then(|database| database.status.as_ref()).map(|status| &status.conditions);
        conditions
            .and_then(|all| find(all, "StorageQuotaOk"))
            .is_some_and(|quota| reasons.contains(&quota.reason.as_str()))
    };
    cluster.until(&databases, NAME, reasons[0], BOUND, reports).await.map(drop)
}

/// Returns the refusal of a write.
async fn refused(session: &Client) -> Result<String> {
    let Err(error) = session.batch_execute("INSERT INTO filling VALUES (0, 'too much')").await else {
        bail!("a write is accepted although the storage is exceeded");
    };
    let refusal = error.as_db_error().context("the session was terminated instead of refusing the write")?;
    ensure!(*refusal.code() == SqlState::DISK_FULL, "failed for another reason: {refusal}");
    ensure!(refusal.message().contains("storage quota"), "the message does not name the quota: {refusal}");
    Ok(format!("{}: {}", refusal.code().code(), refusal.message()))
}
