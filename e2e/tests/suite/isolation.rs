//! What a second customer's login can do to the first customer's database: nothing.

use ahoi_e2e::Cluster;
use ahoi_e2e::cluster::SUITE;
use anyhow::{Context as _, Result, bail, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::api::LogParams;
use serde_json::json;

#[tokio::test]
async fn customers_cannot_reach_each_other() -> Result<()> {
    let cluster = Cluster::connect().await?;
    for name in ["isolation-a", "isolation-b"] {
        let features =
            json!({"database": {"enabled": true, "connectionLimit": 20, "parameters": {"statement_timeout": "30s"}}});
        cluster.create_customer(name, features).await?;
    }
    for name in ["isolation-a", "isolation-b"] {
        cluster.ready(name).await?;
    }
    let victim = cluster.direct("isolation-a").await?;
    let attacker = cluster.direct("isolation-b").await?;
    let (database, login) = (victim.get("database").to_owned(), victim.get("username").to_owned());
    let (own, own_login) = (attacker.get("database").to_owned(), attacker.get("username").to_owned());
    victim.connect().await?.batch_execute("CREATE TABLE IF NOT EXISTS secret (n int)").await?;

    for target in [database.as_str(), "postgres", "template1"] {
        refused(attacker.clone().to_database(target).connect().await.map(drop), target)?;
    }
    let pooled = cluster.pooled("isolation-b").await?;
    refused(pooled.to_database(&database).connect().await.map(drop), "the other database through the pool")?;

    let session = attacker.connect().await?;
    for statement in [
        format!("SELECT pg_database_size('{database}')"),
        format!("DROP DATABASE {database}"),
        format!("ALTER DATABASE {database} RENAME TO mine"),
        format!("ALTER DATABASE {database} OWNER TO {own_login}"),
        format!("COMMENT ON DATABASE {database} IS 'mine'"),
        format!("SET ROLE {login}"),
        format!("SET ROLE {database}_owner"),
        "SET ROLE postgres".to_owned(),
        format!("ALTER ROLE {login} PASSWORD 'x'"),
        format!("DROP ROLE {login}"),
        format!("GRANT {database}_owner TO {own_login}"),
        format!("GRANT {own}_owner TO {login}"),
        // Its own limits are not its own to lift.
        format!("ALTER DATABASE {own} CONNECTION LIMIT -1"),
        format!("ALTER DATABASE {own} SET statement_timeout = 0"),
        format!("ALTER DATABASE {own} RENAME TO bigger"),
        format!("ALTER DATABASE {own} OWNER TO {own_login}"),
        format!("ALTER DATABASE {own} OWNER TO {own}_owner"),
        format!("COMMENT ON DATABASE {own} IS 'mine'"),
        format!("DROP DATABASE {own}"),
        format!("ALTER ROLE {own_login} CONNECTION LIMIT -1"),
        format!("ALTER ROLE {own_login} CREATEDB"),
        format!("ALTER ROLE {own_login} SUPERUSER"),
        "CREATE DATABASE mine".to_owned(),
        "CREATE ROLE mine".to_owned(),
        "CREATE EXTENSION file_fdw".to_owned(),
        "SELECT rolpassword FROM pg_authid".to_owned(),
        "COPY (SELECT 1) TO PROGRAM 'true'".to_owned(),
        "SELECT pg_read_file('postgresql.conf')".to_owned(),
        "ALTER SYSTEM SET max_connections = 5".to_owned(),
        "SELECT * FROM ahoi.pooler_lookup('postgres')".to_owned(),
        "SELECT * FROM ahoi.databases".to_owned(),
        format!(
            "SELECT 1 / count(*) FROM pg_stat_activity WHERE usename = '{login}' AND query <> '<insufficient privilege>'"
        ),
        "SELECT 1 / count(*) FROM pg_shdescription WHERE description LIKE '%isolation-%'".to_owned(),
    ] {
        // As the owner of its objects, which it is by default, and as the bare login.
        for role in [format!("SET ROLE {own}_owner"), "SET ROLE NONE".to_owned()] {
            session.batch_execute(&role).await?;
            refused(session.batch_execute(&statement).await.map_err(Into::into), &format!("{statement} after {role}"))?;
        }
    }
    session.batch_execute(&format!("SET ROLE {own}_owner")).await?;
    // Granting what one may not grant is only a warning to PostgreSQL: what came of it is what counts.
    session.batch_execute(&format!("GRANT CONNECT ON DATABASE {own} TO PUBLIC")).await?;
    session.batch_execute(&format!("GRANT CONNECT ON DATABASE {own} TO {login}")).await?;
    refused(victim.clone().to_database(&own).connect().await.map(drop), "a database opened to others by its customer")?;
    what_it_may_do(&session).await?;
    no_password_is_logged(&cluster, &[victim.get("password"), attacker.get("password")]).await?;
    cluster.delete_customer("isolation-a").await?;
    cluster.delete_customer("isolation-b").await
}

/// In its own database a customer is at home.
async fn what_it_may_do(session: &tokio_postgres::Client) -> Result<()> {
    session
        .batch_execute(
            "DROP TABLE IF EXISTS t; DROP SCHEMA IF EXISTS app CASCADE; DROP EXTENSION IF EXISTS pgcrypto; \
             CREATE TABLE t (n int); CREATE SCHEMA app; CREATE TABLE app.t (n int); CREATE TEMP TABLE x (n int); \
             CREATE INDEX ON t (n); DROP TABLE t; CREATE EXTENSION pgcrypto",
        )
        .await
        .context("what a customer may do in its own database")?;
    let owner: String =
        session.query_one("SELECT tableowner FROM pg_tables WHERE schemaname = 'app'", &[]).await?.get(0);
    ensure!(owner.ends_with("_owner"), "objects belong to the login {owner}, which a rotation would have to move");
    Ok(())
}

fn refused(outcome: Result<()>, what: &str) -> Result<()> {
    match outcome {
        Err(_) => Ok(()),
        Ok(()) => bail!("allowed: {what}"),
    }
}

/// The server logs every statement; no password may be among them.
pub async fn no_password_is_logged(cluster: &Cluster, passwords: &[&str]) -> Result<()> {
    let pods = cluster.of::<Pod>(SUITE);
    let log = pods.logs("demo-postgres-0", &LogParams::default()).await?;
    ensure!(log.contains("SCRAM-SHA-256$"), "the server does not log statements: this check would see nothing");
    for password in passwords {
        ensure!(password.len() >= 24, "a password of {} characters", password.len());
        ensure!(!log.contains(password), "a plaintext password is in the server's log");
    }
    Ok(())
}
