//! The login of one customer has no access to the database of another.

use ahoi_e2e::refusal::{NO_PRIVILEGE, all, refused};
use ahoi_e2e::{Cluster, SYSTEM};
use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::api::LogParams;
use serde_json::json;

/// invalid_schema_name and undefined_table: objects of other databases are not visible.
const NO_SCHEMA: &str = "3F000";
const NO_TABLE: &str = "42P01";
/// division_by_zero: the query counts rows that the login may not see, and finds none.
const DIVISION_BY_ZERO: &str = "22012";

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

    let mut outcomes = Vec::new();
    for target in [database.as_str(), "postgres", "template1"] {
        let session = attacker.clone().to_database(target).connect().await;
        outcomes.push(refused(session, NO_PRIVILEGE, "permission denied for database", target));
    }
    let pooled = cluster.pooled("isolation-b").await?;
    let session = pooled.to_database(&database).connect().await;
    outcomes.push(refused(
        session,
        NO_PRIVILEGE,
        "permission denied for database",
        "the other database through the pool",
    ));

    let session = attacker.connect().await?;
    for (statement, code) in [
        (format!("SELECT pg_database_size('{database}')"), NO_PRIVILEGE),
        (format!("DROP DATABASE {database}"), NO_PRIVILEGE),
        (format!("ALTER DATABASE {database} RENAME TO mine"), NO_PRIVILEGE),
        (format!("ALTER DATABASE {database} OWNER TO {own_login}"), NO_PRIVILEGE),
        (format!("COMMENT ON DATABASE {database} IS 'mine'"), NO_PRIVILEGE),
        (format!("SET ROLE {login}"), NO_PRIVILEGE),
        (format!("SET ROLE {database}_owner"), NO_PRIVILEGE),
        ("SET ROLE postgres".to_owned(), NO_PRIVILEGE),
        (format!("ALTER ROLE {login} PASSWORD 'x'"), NO_PRIVILEGE),
        (format!("DROP ROLE {login}"), NO_PRIVILEGE),
        (format!("GRANT {database}_owner TO {own_login}"), NO_PRIVILEGE),
        (format!("GRANT {own}_owner TO {login}"), NO_PRIVILEGE),
        // A customer cannot lift its own limits.
        (format!("ALTER DATABASE {own} CONNECTION LIMIT -1"), NO_PRIVILEGE),
        (format!("ALTER DATABASE {own} SET statement_timeout = 0"), NO_PRIVILEGE),
        (format!("ALTER DATABASE {own} RENAME TO bigger"), NO_PRIVILEGE),
        (format!("ALTER DATABASE {own} OWNER TO {own_login}"), NO_PRIVILEGE),
        (format!("ALTER DATABASE {own} OWNER TO {own}_owner"), NO_PRIVILEGE),
        (format!("COMMENT ON DATABASE {own} IS 'mine'"), NO_PRIVILEGE),
        (format!("DROP DATABASE {own}"), NO_PRIVILEGE),
        (format!("ALTER ROLE {own_login} CONNECTION LIMIT -1"), NO_PRIVILEGE),
        (format!("ALTER ROLE {own_login} CREATEDB"), NO_PRIVILEGE),
        (format!("ALTER ROLE {own_login} SUPERUSER"), NO_PRIVILEGE),
        ("CREATE DATABASE mine".to_owned(), NO_PRIVILEGE),
        ("CREATE ROLE mine".to_owned(), NO_PRIVILEGE),
        ("CREATE EXTENSION file_fdw".to_owned(), NO_PRIVILEGE),
        ("SELECT rolpassword FROM pg_authid".to_owned(), NO_PRIVILEGE),
        ("COPY (SELECT 1) TO PROGRAM 'true'".to_owned(), NO_PRIVILEGE),
        ("SELECT pg_read_file('postgresql.conf')".to_owned(), NO_PRIVILEGE),
        ("ALTER SYSTEM SET max_connections = 5".to_owned(), NO_PRIVILEGE),
        ("SELECT * FROM ahoi.pooler_lookup('postgres')".to_owned(), NO_SCHEMA),
        ("SELECT * FROM ahoi.databases".to_owned(), NO_TABLE),
        (
            format!(
                "SELECT 1 / count(*) FROM pg_stat_activity WHERE usename = '{login}' AND query <> '<insufficient privilege>'"
            ),
            DIVISION_BY_ZERO,
        ),
        (
            "SELECT 1 / count(*) FROM pg_shdescription WHERE description LIKE '%isolation-%'".to_owned(),
            DIVISION_BY_ZERO,
        ),
    ] {
        // As the owner role, which is the default, and as the login itself.
        for role in [format!("SET ROLE {own}_owner"), "SET ROLE NONE".to_owned()] {
            session.batch_execute(&role).await?;
            let outcome = session.batch_execute(&statement).await;
            outcomes.push(refused(outcome, code, "", &format!("{statement} after {role}")));
        }
    }
    session.batch_execute(&format!("SET ROLE {own}_owner")).await?;
    // A GRANT without grant option is only a warning in PostgreSQL, so the effect is tested.
    session.batch_execute(&format!("GRANT CONNECT ON DATABASE {own} TO PUBLIC")).await?;
    session.batch_execute(&format!("GRANT CONNECT ON DATABASE {own} TO {login}")).await?;
    let session_of_victim = victim.clone().to_database(&own).connect().await;
    let what = "a database that its customer tried to open";
    outcomes.push(refused(session_of_victim, NO_PRIVILEGE, "permission denied for database", what));
    all(outcomes)?;
    what_it_may_do(&session).await?;
    no_password_is_logged(&cluster, &[victim.get("password"), attacker.get("password")]).await?;
    cluster.delete_customer("isolation-a").await?;
    cluster.delete_customer("isolation-b").await
}

/// Statements that a customer may run in its own database.
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
    ensure!(owner.ends_with("_owner"), "objects are owned by the login {owner} instead of the owner role");
    Ok(())
}

/// The server logs all statements. Its log must not contain passwords or verifiers.
pub async fn no_password_is_logged(cluster: &Cluster, passwords: &[&str]) -> Result<()> {
    let pods = cluster.of::<Pod>(SYSTEM);
    let log = pods.logs("demo-postgres-0", &LogParams::default()).await?;
    ensure!(
        log.contains("statement: DROP TABLE IF EXISTS t"),
        "the server does not log statements: the test proves nothing"
    );
    let admin = cluster.admin("postgres").await?;
    let verifiers = admin.query("SELECT rolpassword FROM pg_authid WHERE rolpassword IS NOT NULL", &[]).await?;
    ensure!(verifiers.len() > passwords.len(), "only {} roles have verifiers", verifiers.len());
    for verifier in &verifiers {
        ensure!(!log.contains(verifier.get::<_, &str>(0)), "the verifier of a role is in the server's log");
    }
    for password in passwords {
        ensure!(password.len() >= 24, "a password of {} characters", password.len());
        ensure!(!log.contains(password), "a plaintext password is in the server's log");
    }
    Ok(())
}
