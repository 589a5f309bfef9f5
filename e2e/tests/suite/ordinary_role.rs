//! Customers on a server whose admin role has only CREATEDB and CREATEROLE, as with managed PostgreSQL.

use std::collections::BTreeMap;

use ahoi_api::{DatabaseServer, Passwords};
use ahoi_e2e::refusal::{BY_POOLER, NO_PRIVILEGE, all, refused};
use ahoi_e2e::{Cluster, SYSTEM};
use ahoi_reconcile::is_ready;
use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::Secret;
use serde_json::json;

use crate::quota;

/// Name of the server, its label, its admin role and its admin database.
const NAME: &str = "ordinary";
const CUSTOMERS: [&str; 2] = ["ordinary-a", "ordinary-b"];

#[tokio::test]
async fn customers_live_on_a_server_without_a_superuser() -> Result<()> {
    let cluster = Cluster::connect().await?;
    remove(&cluster).await?;
    make_server(&cluster).await?;
    for (name, storage) in CUSTOMERS.into_iter().zip(["10Gi", "30Mi"]) {
        let database = json!({
            "enabled": true, "serverSelector": {"for": NAME}, "extensions": ["pgcrypto"], "storage": storage,
        });
        let features = json!({"database": database});
        cluster.create_customer_with(name, json!({"deletionPolicy": "Delete", "features": features})).await?;
    }
    for name in CUSTOMERS {
        cluster.ready(name).await?;
    }
    only_verifiers_are_published(&cluster).await?;
    customers_are_isolated(&cluster).await?;
    tokio::try_join!(drift_in_postgresql_is_reverted(&cluster), growth_closes_a_full_database(&cluster))?;
    connections_are_reestablished(&cluster).await?;

    let database = cluster.direct(CUSTOMERS[0]).await?.get("database").to_owned();
    for name in CUSTOMERS {
        cluster.delete_customer(name).await?;
    }
    let admin = cluster.admin("postgres").await?;
    let left = "SELECT (SELECT count(*) FROM pg_database WHERE datname = $1) + \
        (SELECT count(*) FROM pg_roles WHERE starts_with(rolname, $1))";
    let left: i64 = admin.query_one(left, &[&database]).await?.get(0);
    ensure!(left == 0, "Delete left {left} databases and roles");
    ensure!(verifiers(&cluster, &database).await?.is_empty(), "Delete left verifiers");
    remove(&cluster).await
}

async fn make_server(cluster: &Cluster) -> Result<()> {
    cluster.create_server(NAME, NAME, "CREATEDB CREATEROLE", NAME).await?;
    let admin = cluster.admin("postgres").await?;
    let powers = "SELECT rolsuper OR rolreplication OR rolbypassrls OR pg_has_role(oid, 'pg_read_all_data', 'MEMBER') \
        OR has_table_privilege(oid, 'pg_catalog.pg_authid', 'SELECT') FROM pg_roles WHERE rolname = $1";
    ensure!(!admin.query_one(powers, &[&NAME]).await?.get::<_, bool>(0), "the role has more privileges than intended");

    let servers = cluster.all::<DatabaseServer>();
    cluster.patch_spec(&servers, NAME, json!({"diskSize": "1Mi"})).await?;
    let file = |s: Option<&DatabaseServer>| {
        s.is_some_and(|s| is_ready(s) && s.status.as_ref().is_some_and(|s| s.passwords == Some(Passwords::File)))
    };
    let server = cluster
        .until(&servers, NAME, "Ready, with the passwords in files", 60, file)
        .await?
        .context("the server was deleted")?;
    let status = server.status.context("no status")?;
    ensure!(status.pooler_login.is_none(), "{status:?}");
    let closed = status.conditions.iter().find(|condition| condition.type_ == "DefaultDatabasesClosed");
    // The DatabaseServer `demo` has closed them.
    ensure!(closed.is_some_and(|closed| closed.status == "True"), "{closed:?}");
    for (condition, reason) in [("DiskOk", "DiskNearlyFull"), ("TemporaryFilesLimited", "PrivilegeMissing")] {
        let found = status.conditions.iter().find(|found| found.type_ == condition);
        ensure!(found.is_some_and(|found| found.status == "False" && found.reason == reason), "{found:?}");
    }
    ensure!(status.used_bytes.is_some_and(|used| used > 7_000_000), "{:?}", status.used_bytes);
    let lookup = cluster.admin(NAME).await?;
    let found: bool = lookup.query_one("SELECT to_regproc('ahoi.pooler_lookup') IS NULL", &[]).await?.get(0);
    ensure!(found, "the lookup function exists although it cannot work");
    Ok(())
}

/// Returns the verifiers of the logins of a database that are published to the agents.
async fn verifiers(cluster: &Cluster, database: &str) -> Result<BTreeMap<String, String>> {
    let secret = cluster.of::<Secret>(SYSTEM).get_opt(&ahoi_api::verifier_secret(database)).await?;
    let data = secret.and_then(|secret| secret.data).unwrap_or_default();
    let ours = data.into_iter().filter(|(login, _)| login.starts_with(&format!("{database}_")));
    ours.map(|(login, verifier)| Ok((login, String::from_utf8(verifier.0)?))).collect()
}

async fn only_verifiers_are_published(cluster: &Cluster) -> Result<()> {
    let login = cluster.pooled(CUSTOMERS[0]).await?;
    let known = verifiers(cluster, login.get("database")).await?;
    let verifier = known.get(login.get("username")).context("the verifier is not published")?;
    ensure!(verifier.starts_with("SCRAM-SHA-256$") && !verifier.contains(login.get("password")));

    let session = login.connect().await.context("through the fleet")?;
    session.batch_execute("CREATE TABLE kept AS SELECT n FROM generate_series(1, 100) n").await?;
    let digest: String = session.query_one("SELECT encode(digest('a', 'sha256'), 'hex')", &[]).await?.get(0);
    ensure!(digest.starts_with("ca978112"), "the extension does not work");
    let mut wrong = login.clone();
    wrong.entries.insert("password".into(), "wrong".into());
    let mut outcomes =
        vec![refused(wrong.connect().await, BY_POOLER, "SASL authentication failed", "a wrong password")];
    for stranger in [NAME, "postgres", &format!("{}_owner", login.get("database"))] {
        let mut other = login.clone();
        other.entries.insert("username".into(), stranger.into());
        outcomes.push(refused(other.connect().await, BY_POOLER, "SASL authentication failed", stranger));
    }
    all(outcomes)
}

async fn customers_are_isolated(cluster: &Cluster) -> Result<()> {
    let (victim, attacker) = (cluster.direct(CUSTOMERS[0]).await?, cluster.direct(CUSTOMERS[1]).await?);
    let (database, own_login) = (victim.get("database"), attacker.get("username"));
    let mut outcomes = Vec::new();
    for target in [database, NAME, "postgres", "template1"] {
        let session = attacker.clone().to_database(target).connect().await;
        outcomes.push(refused(session, NO_PRIVILEGE, "permission denied for database", target));
        let pooled = cluster.pooled(CUSTOMERS[1]).await?.to_database(target).connect().await;
        // The fleet has only routes to customers' databases.
        let (state, words) = match target == database {
            true => (NO_PRIVILEGE, "permission denied for database".to_owned()),
            false => (BY_POOLER, format!("no such database: {target}")),
        };
        outcomes.push(refused(pooled, state, &words, &format!("{target} through the fleet")));
    }
    let session = attacker.connect().await?;
    for statement in [
        format!("SET ROLE {database}_owner"),
        format!("SET ROLE {NAME}"),
        format!("GRANT {database}_owner TO {own_login}"),
        format!("ALTER ROLE {} PASSWORD 'x'", victim.get("username")),
        format!("DROP DATABASE {database}"),
        format!("ALTER ROLE {own_login} CREATEDB"),
        format!("ALTER DATABASE {} CONNECTION LIMIT -1", attacker.get("database")),
        "CREATE ROLE mine".to_owned(),
        "CREATE DATABASE mine".to_owned(),
    ] {
        outcomes.push(refused(session.batch_execute(&statement).await, NO_PRIVILEGE, "", &statement));
    }
    all(outcomes)
}

/// A changed password is not visible to this admin role. Sweeps find it by logging in.
async fn drift_in_postgresql_is_reverted(cluster: &Cluster) -> Result<()> {
    let login = cluster.direct(CUSTOMERS[0]).await?;
    crate::drift::is_repaired(cluster, &login, Some(NAME), 200).await?;
    cluster.pooled_again(CUSTOMERS[0], 60).await.context("through the fleet after the repair")?;
    Ok(())
}

/// Without a superuser there is no event trigger: an owner can circumvent the refusal, and the growth of the database is detected.
async fn growth_closes_a_full_database(cluster: &Cluster) -> Result<()> {
    let (name, login) = (CUSTOMERS[1], cluster.direct(CUSTOMERS[1]).await?);
    quota::fill_up(&login).await?;
    quota::level(cluster, name, "StorageQuotaExceeded").await?;
    let session = login.connect().await?;
    quota::refused(&session, "UPDATE fill SET n = 1", quota::DISK_FULL).await?;
    quota::refused(&session, "CREATE TABLE more (n int)", "42501").await?;
    quota::refused(&session, "CREATE TEMP TABLE more (n int)", "42501").await?;
    session.batch_execute("ALTER TABLE fill DISABLE TRIGGER USER").await.context("an owner may")?;
    quota::fill(&session, 5).await?;
    quota::level(cluster, name, "StorageQuotaBreached").await?;
    ensure!(login.connect().await.is_err(), "a closed database accepts a login");
    cluster.change(name, json!({"features": {"database": {"storage": "90Mi"}}})).await?;
    let session = login.connect().await?;
    session.batch_execute("CREATE TABLE more (n int); INSERT INTO fill VALUES (0, 'again')").await?;
    Ok(())
}

/// All connections of the controller and the poolers end, as in a failover.
async fn connections_are_reestablished(cluster: &Cluster) -> Result<()> {
    let login = cluster.direct(CUSTOMERS[0]).await?;
    let session = cluster.pooled(CUSTOMERS[0]).await?.connect().await?;
    session.simple_query("SELECT 1").await?;
    let admin = cluster.admin("postgres").await?;
    let end = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename IN ($1, $2)";
    let ended: i64 = admin.query_one(end, &[&NAME, &login.get("username")]).await?.get(0);
    ensure!(ended > 0, "no connection was terminated: the test proves nothing");
    let again = cluster.pooled_again(CUSTOMERS[0], 30).await?;
    let rows: i64 = again.query_one("SELECT count(*) FROM kept", &[]).await?.get(0);
    ensure!(rows == 100, "{rows} of 100 rows");
    cluster.change(CUSTOMERS[0], json!({"features": {"database": {"connectionLimit": 7}}})).await?;
    let limit = "SELECT datconnlimit FROM pg_database WHERE datname = $1";
    let limit: i32 = admin.query_one(limit, &[&login.get("database")]).await?.get(0);
    ensure!(limit == 7, "the change did not reach the server");
    Ok(())
}

/// Deletes what this test or an earlier run created.
async fn remove(cluster: &Cluster) -> Result<()> {
    for name in CUSTOMERS {
        cluster.delete_customer(name).await?;
    }
    cluster.delete_server(NAME, NAME, NAME).await
}
