//! The storage quota: growth is detected in time, a full database does not grow, and the customer can free storage.

use std::time::{Duration, Instant};

use ahoi_api::Database;
use ahoi_e2e::Cluster;
use ahoi_e2e::postgres::Login;
use ahoi_reconcile::conditions::find;
use anyhow::{Context as _, Result, bail, ensure};
use serde_json::json;
use tokio::time::{sleep, timeout};
use tokio_postgres::Client;

/// Four times the size of an empty database.
const STORAGE: &str = "30Mi";
/// About 1 MB.
const FILL: &str = "INSERT INTO fill SELECT n, repeat(md5(n::text), 30) FROM generate_series(1, 1000) n";
/// Documented time until writes are refused.
const BOUND: Duration = Duration::from_secs(60);
/// disk_full: SQLSTATE of a write that the quota refuses.
pub const DISK_FULL: &str = "53100";

#[tokio::test]
async fn a_small_database_that_grows_is_refused_writes_within_a_minute() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let name = "quota-full";
    let login = customer(&cluster, name).await?;
    let session = login.connect().await?;
    temporary_files_are_limited(&session).await?;
    prepare_holes(&session).await?;
    fill(&session, 40).await?;
    let waited = until_refused(&login).await?;
    println!("quota: refused {waited:.1?} after the storage was used up");
    ensure!(waited < BOUND, "refused after {waited:?}");

    let size = size_of(&cluster, &login).await?;
    nothing_grows(&login).await?;
    let grown = size_of(&cluster, &login).await? - size;
    ensure!(grown < 1024 * 1024, "the database grew by {grown} bytes while it was full");

    let waited = free_storage(&login).await?;
    println!("quota: lifted {waited:.1?} after storage was freed");
    ensure!(waited < BOUND, "lifted after {waited:?}");
    level(&cluster, name, "WithinStorageQuota").await?;
    nothing_is_left(&cluster, &login).await?;
    cluster.delete_customer(name).await
}

/// Growth of a full database is detected. The administrator writes here, because the quota does not apply to it.
#[tokio::test]
async fn a_full_database_that_grows_is_closed_until_it_is_below_its_quota() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let name = "quota-breached";
    let login = customer(&cluster, name).await?;
    fill_up(&login).await?;
    level(&cluster, name, "StorageQuotaExceeded").await?;

    let admin = cluster.admin(login.get("database")).await?;
    for _ in 0..5 {
        admin.batch_execute(FILL).await.context("the administrator's write")?;
    }
    let grew = Instant::now();
    let database = level(&cluster, name, "StorageQuotaBreached").await?;
    println!("quota: closed {:.1?} after it grew", grew.elapsed());
    ensure!(grew.elapsed() < BOUND, "closed after {:?}", grew.elapsed());
    let status = database.status.context("no status")?;
    ensure!(status.closed_until.is_some(), "status.closedUntil is not set");
    ensure!(find(&status.conditions, "Ready").is_some_and(|ready| ready.status == "False"), "Ready although closed");
    let refusal = login.connect().await.err().context("a closed database accepts a login")?;
    let code = refusal.downcast_ref::<tokio_postgres::Error>().and_then(|error| error.code());
    ensure!(code.is_some_and(|code| code.code() == "28000"), "{refusal:?}");

    cluster.change(name, json!({"features": {"database": {"storage": "90Mi"}}})).await?;
    let database = level(&cluster, name, "WithinStorageQuota").await?;
    ensure!(database.status.is_some_and(|status| status.closed_until.is_none()), "still closed");
    login.connect().await?.batch_execute(FILL).await.context("a write after the storage was raised")?;
    nothing_is_left(&cluster, &login).await?;
    cluster.delete_customer(name).await
}

async fn customer(cluster: &Cluster, name: &str) -> Result<Login> {
    let features = json!({"database": {"enabled": true, "storage": STORAGE}, "connectionPool": {"enabled": false}});
    cluster.create_customer_with(name, json!({"deletionPolicy": "Delete", "features": features})).await?;
    cluster.ready(name).await?;
    cluster.direct(name).await
}

/// Writes to the table `fill` until writes are refused.
pub async fn fill_up(login: &Login) -> Result<Duration> {
    let session = login.connect().await?;
    session.batch_execute("CREATE TABLE IF NOT EXISTS fill (n int, text text)").await?;
    fill(&session, 40).await?;
    until_refused(login).await
}

/// Writes `megabytes`, or less if writes are refused.
pub async fn fill(session: &Client, megabytes: usize) -> Result<()> {
    for _ in 0..megabytes {
        match session.batch_execute(FILL).await {
            Err(error) if is_refusal(&error) => break,
            outcome => outcome?,
        }
    }
    Ok(())
}

/// Whether the quota refused the write or terminated the session.
fn is_refusal(error: &tokio_postgres::Error) -> bool {
    error.is_closed() || error.code().is_some_and(|code| [DISK_FULL, "57P01"].contains(&code.code()))
}

/// Each attempt has its own session, because the quota terminates sessions once.
async fn until_refused(login: &Login) -> Result<Duration> {
    let begun = Instant::now();
    let refused = async {
        loop {
            let session = login.connect().await?;
            let Err(error) = session.batch_execute("INSERT INTO fill VALUES (0, 'too much')").await else {
                // PostgreSQL has no watch. The time-out around this loop bounds it.
                sleep(Duration::from_millis(500)).await;
                continue;
            };
            if error.code().is_some_and(|code| code.code() == DISK_FULL) {
                return anyhow::Ok(());
            }
            ensure!(is_refusal(&error), "refused for another reason: {error:?}");
        }
    };
    timeout(2 * BOUND, refused).await.context("never refused")??;
    Ok(begun.elapsed())
}

/// Objects that a customer could prepare to circumvent the quota.
async fn prepare_holes(session: &Client) -> Result<()> {
    session
        .batch_execute(
            "CREATE TABLE fill (n int, text text); CREATE SCHEMA app; CREATE TABLE app.t (n int); \
             CREATE MATERIALIZED VIEW view AS SELECT 1 AS n; \
             CREATE TABLE parent (n int PRIMARY KEY); CREATE TABLE child (n int REFERENCES parent ON DELETE CASCADE); \
             CREATE TABLE partitioned (n int) PARTITION BY RANGE (n); \
             CREATE TABLE partition PARTITION OF partitioned FOR VALUES FROM (0) TO (10); \
             CREATE UNLOGGED TABLE unlogged (n int); \
             INSERT INTO parent VALUES (1), (2); INSERT INTO child VALUES (1); \
             GRANT CREATE ON SCHEMA app TO PUBLIC; GRANT ALL ON ALL TABLES IN SCHEMA app TO PUBLIC; \
             SELECT lo_from_bytea(4242, 'large'); \
             CREATE FUNCTION off() RETURNS void LANGUAGE plpgsql SECURITY DEFINER AS \
             'BEGIN ALTER TABLE fill DISABLE TRIGGER USER; END'; \
             CREATE FUNCTION hoard() RETURNS trigger LANGUAGE plpgsql AS \
             'BEGIN CREATE TABLE hoard AS SELECT 1 AS n; RETURN OLD; END'; \
             CREATE TRIGGER hoard AFTER DELETE ON child FOR EACH ROW EXECUTE FUNCTION hoard(); \
             CREATE RULE copy AS ON DELETE TO app.t DO ALSO INSERT INTO fill VALUES (OLD.n, ''); \
             CREATE SCHEMA ahoi_quota; \
             CREATE FUNCTION ahoi_quota.refuse() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'; \
             CREATE TRIGGER ahoi_quota BEFORE INSERT ON fill FOR EACH ROW EXECUTE FUNCTION ahoi_quota.refuse(); \
             SET ROLE NONE; CREATE TABLE mine (text text); CREATE SCHEMA own; CREATE TABLE own.t (n int)",
        )
        .await
        .context("preparation")?;
    session.batch_execute("RESET ROLE").await.context("RESET ROLE")
}

/// Each statement is refused by the quota or for a missing privilege.
async fn nothing_grows(login: &Login) -> Result<()> {
    let session = login.connect().await?;
    let role: String = session.query_one("SELECT current_user::text", &[]).await?.get(0);
    for statement in [
        "INSERT INTO fill VALUES (1, 'x')",
        "INSERT INTO fill VALUES (1, 'x') ON CONFLICT DO NOTHING",
        "UPDATE fill SET n = 1",
        "MERGE INTO fill USING (SELECT 1) s ON true WHEN MATCHED THEN UPDATE SET n = 2",
        "WITH x AS (INSERT INTO fill VALUES (1, 'x') RETURNING n) SELECT n FROM x",
        "INSERT INTO unlogged VALUES (1)",
        "INSERT INTO partitioned VALUES (1)",
        "INSERT INTO partition VALUES (1)",
        "INSERT INTO app.t VALUES (1)",
        "CREATE TABLE more (n int)",
        "CREATE TABLE more AS SELECT 1 AS n",
        "SELECT 1 AS n INTO more",
        "CREATE TEMP TABLE more (n int)",
        "CREATE UNLOGGED TABLE more (n int)",
        "DO 'BEGIN CREATE TABLE more (n int); END'",
        "CREATE INDEX ON fill (n)",
        "CREATE MATERIALIZED VIEW more AS SELECT 1 AS n",
        "REFRESH MATERIALIZED VIEW view",
        "CREATE SCHEMA more",
        "CREATE SEQUENCE more",
        "CREATE EXTENSION hstore",
        "CREATE FUNCTION more() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "CREATE STATISTICS more ON n, text FROM fill",
        "ALTER TABLE fill ADD more int DEFAULT 1",
        "ALTER TABLE fill ALTER n TYPE bigint",
        "ALTER TABLE fill DISABLE TRIGGER USER",
        "ALTER TABLE fill RENAME TO filled",
        "DROP TRIGGER ahoi_quota ON fill",
        "COMMENT ON TABLE fill IS 'more'",
        "GRANT SELECT ON fill TO PUBLIC",
        "GRANT CREATE ON SCHEMA public TO CURRENT_USER",
        "ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO PUBLIC",
        "DROP OWNED BY CURRENT_USER",
        "ALTER SCHEMA app OWNER TO CURRENT_USER",
        "SELECT off()",
        "DELETE FROM parent WHERE n = 1",
        "DELETE FROM app.t",
    ] {
        refused(&session, statement, DISK_FULL).await?;
    }
    for statement in [
        "EXPLAIN ANALYZE CREATE TABLE more AS SELECT 1 AS n",
        "EXPLAIN ANALYZE CREATE TABLE app.more AS SELECT 1 AS n",
        "EXPLAIN ANALYZE CREATE TEMP TABLE more AS SELECT 1 AS n",
        "SELECT lo_from_bytea(0, 'more')",
        "SELECT lo_create(0)",
        "SELECT lo_creat(-1)",
        "SELECT lo_put(4242, 0, 'more')",
        "SELECT pg_logical_emit_message(false, 'more', 'more')",
        "SET session_replication_role = replica",
        "SET temp_file_limit = -1",
    ] {
        refused(&session, statement, "42501").await?;
    }
    session.batch_execute("SET ROLE NONE").await?;
    let login_role: String = session.query_one("SELECT current_user::text", &[]).await?.get(0);
    ensure!(role != login_role, "{role} is not the owner role");
    for statement in [
        "INSERT INTO mine VALUES ('x')",
        "INSERT INTO own.t VALUES (1)",
        "CREATE TABLE hog (n int)",
        "CREATE TABLE own.x (n int)",
    ] {
        refused(&session, statement, DISK_FULL).await?;
    }
    refused(&session, "EXPLAIN ANALYZE CREATE TABLE own.x AS SELECT 1 AS n", "42501").await?;
    let read: i64 = session.query_one("SELECT count(*) FROM fill", &[]).await.context("a read")?.get(0);
    ensure!(read >= 20_000, "{read} rows");
    Ok(())
}

pub async fn refused(session: &Client, statement: &str, code: &str) -> Result<()> {
    let Err(error) = session.batch_execute(statement).await else {
        bail!("allowed although the storage is used up: {statement}")
    };
    let found = error.code().map(|code| code.code());
    ensure!(found == Some(code), "{statement}: {found:?} instead of {code}: {error:?}");
    Ok(())
}

/// Frees storage with the privileges of the customer.
async fn free_storage(login: &Login) -> Result<Duration> {
    let session = login.connect().await?;
    let deleted = session.execute("DELETE FROM fill WHERE n > 100", &[]).await.context("a delete")?;
    ensure!(deleted > 15_000, "{deleted} rows deleted");
    for statement in [
        "VACUUM FULL fill",
        "REINDEX TABLE parent",
        "TRUNCATE app.t",
        "DROP TABLE partitioned",
        "DROP SCHEMA ahoi_quota CASCADE",
    ] {
        session.batch_execute(statement).await.context(statement)?;
    }
    session.execute("SELECT lo_unlink(4242)", &[]).await.context("lo_unlink")?;
    let begun = Instant::now();
    let written = async {
        loop {
            match session.batch_execute("INSERT INTO fill VALUES (0, 'again')").await {
                Ok(()) => return anyhow::Ok(()),
                Err(error) if error.code().is_some_and(|code| code.code() == DISK_FULL) => {}
                Err(error) => return Err(error.into()),
            }
            // PostgreSQL has no watch. The time-out around this loop bounds it.
            sleep(Duration::from_millis(500)).await;
        }
    };
    timeout(2 * BOUND, written).await.context("writes stay refused")??;
    Ok(begun.elapsed())
}

/// The quota leaves no objects, and the customer's roles have their privileges.
async fn nothing_is_left(cluster: &Cluster, login: &Login) -> Result<()> {
    let admin = cluster.admin(login.get("database")).await?;
    let left = "SELECT (SELECT count(*) FROM pg_event_trigger) + (SELECT count(*) FROM pg_namespace WHERE nspname ~ '^ahoi') \
        + (SELECT count(*) FROM pg_trigger WHERE tgname ~ '^ahoi') \
        + (SELECT count(*) FROM pg_proc WHERE proname = 'lo_create' AND NOT has_function_privilege('public', oid, 'EXECUTE'))";
    let count = async || anyhow::Ok(admin.query_one(left, &[]).await?.get::<_, i64>(0));
    ensure!(count().await? == 0, "{} objects of the quota are left", count().await?);
    let session = login.connect().await?;
    session
        .batch_execute(
            "CREATE TABLE later (n int); CREATE SCHEMA later; CREATE TEMP TABLE temporary (n int); \
             SELECT lo_from_bytea(0, 'again')",
        )
        .await
        .context("statements of the owner role")
}

/// Temporary files are limited by the storage, and no session can lift the limit.
async fn temporary_files_are_limited(session: &Client) -> Result<()> {
    let limit: String = session.query_one("SHOW temp_file_limit", &[]).await?.get(0);
    ensure!(limit == "64MB", "temp_file_limit is {limit}");
    let sorted = "SELECT count(*) FROM (SELECT repeat(md5(n::text), 30) FROM generate_series(1, 100000) n ORDER BY 1 OFFSET 1) s";
    refused(session, sorted, "53400").await?;
    refused(session, "SET temp_file_limit = -1", "42501").await
}

async fn size_of(cluster: &Cluster, login: &Login) -> Result<i64> {
    let admin = cluster.admin("postgres").await?;
    Ok(admin.query_one("SELECT pg_database_size($1::text::name)", &[&login.get("database")]).await?.get(0))
}

pub async fn level(cluster: &Cluster, name: &str, reason: &str) -> Result<Database> {
    let databases = cluster.of::<Database>(&ahoi_api::namespace_of(name));
    let says = |database: Option<&Database>| {
        let conditions = database.and_then(|database| database.status.as_ref()).map(|status| &status.conditions);
        conditions.and_then(|all| find(all, "StorageQuotaOk")).is_some_and(|quota| quota.reason == reason)
    };
    let database = cluster.until(&databases, name, reason, 2 * BOUND.as_secs(), says).await?;
    database.context("the Database was deleted")
}
