//! Contents of a customer's database: extensions that were dropped, and dumps that an administrator loaded.

use std::time::Duration;

use ahoi_api::DatabaseServer;
use ahoi_e2e::{Cluster, SYSTEM};
use anyhow::{Context as _, Result, ensure};
use kube::api::{Patch, PatchParams};
use serde_json::json;

/// A sweep checks the extensions of at least 20 databases, more than the tests have.
#[tokio::test]
async fn a_dropped_extension_is_recreated_or_reported() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let name = "extensions";
    let features = json!({"database": {"enabled": true, "extensions": ["pgcrypto", "citext"]}});
    cluster.create_customer_with(name, json!({"deletionPolicy": "Delete", "features": features})).await?;
    cluster.ready(name).await?;
    let login = cluster.direct(name).await?;
    let tenant = login.connect().await?;
    let count = "SELECT count(*) FROM pg_extension WHERE extname IN ('pgcrypto', 'citext')";

    tenant.batch_execute("DROP EXTENSION pgcrypto").await?;
    let admin = cluster.admin(login.get("database")).await?;
    admin.batch_execute("DROP EXTENSION citext CASCADE").await?;
    sweep(&cluster).await?;
    let created = async {
        loop {
            if tenant.query_one(count, &[]).await?.get::<_, i64>(0) == 2 {
                return anyhow::Ok(());
            }
            // PostgreSQL has no watch; the time-out around this bounds it.
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), created).await.context("the extensions are not recreated")??;
    tenant.batch_execute("SELECT digest('a', 'sha256'), 'A'::citext = 'a'").await.context("as the tenant")?;

    // A type of the tenant conflicts with the extension.
    tenant.batch_execute("DROP EXTENSION citext; CREATE DOMAIN citext AS text").await?;
    sweep(&cluster).await?;
    let refused = cluster.condition(name, "DatabaseReady", "False", "ExtensionRefused").await?;
    let conditions = refused.status.map(|status| status.conditions).unwrap_or_default();
    let message = conditions.into_iter().find(|c| c.type_ == "DatabaseReady").map(|c| c.message).unwrap_or_default();
    ensure!(message.contains("extension citext") && message.contains("already exists"), "{message}");
    tenant.batch_execute("DROP DOMAIN citext").await?;
    // It is retried every five minutes, and when the spec changes.
    cluster.change(name, json!({"features": {"database": {"connectionLimit": 50}}})).await?;
    let found: i64 = tenant.query_one(count, &[]).await?.get(0);
    ensure!(found == 2, "Ready with {found} of 2 extensions");
    cluster.delete_customer(name).await
}

/// Starts a sweep by a change of the DatabaseServer.
async fn sweep(cluster: &Cluster) -> Result<()> {
    let now = format!("{:?}", std::time::SystemTime::now());
    let annotated = Patch::Merge(json!({"metadata": {"annotations": {"example.com/sweep": now}}}));
    cluster.all::<DatabaseServer>().patch("demo", &PatchParams::default(), &annotated).await?;
    Ok(())
}

/// A schema with an object of every kind.
const OBJECTS: &str = "CREATE SCHEMA app; CREATE TYPE app.mood AS ENUM ('fine'); CREATE DOMAIN app.name AS text; \
    CREATE TYPE app.pair AS (a int, b int); \
    CREATE TABLE app.t (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, old serial, m citext, mood app.mood DEFAULT 'fine'); \
    CREATE TABLE app.parts (n int) PARTITION BY RANGE (n); CREATE TABLE app.part PARTITION OF app.parts DEFAULT; \
    CREATE SEQUENCE app.own; CREATE VIEW v AS TABLE app.t; CREATE MATERIALIZED VIEW app.\"Matched\" AS TABLE app.t; \
    CREATE FUNCTION app.one(int, text) RETURNS int LANGUAGE sql AS 'SELECT 1'; \
    CREATE PROCEDURE app.nothing() LANGUAGE sql AS ''; INSERT INTO app.t (m) VALUES ('x'); \
    SELECT lo_create(42); \
    COMMENT ON EXTENSION citext IS 'ours'";

/// Statements of the customer's application for each object.
const USE: &str = "SELECT * FROM v; INSERT INTO app.t (m) VALUES ('y'); ALTER TABLE app.t ADD n int; ALTER TABLE app.part ADD CHECK (n > 0); ALTER TABLE app.parts ADD more int; \
    ALTER TYPE app.mood ADD VALUE 'better'; ALTER DOMAIN app.name SET DEFAULT 'n'; ALTER TYPE app.pair ADD ATTRIBUTE c int; \
    ALTER SEQUENCE app.own CACHE 2; REFRESH MATERIALIZED VIEW app.\"Matched\"; ALTER FUNCTION app.one(int, text) STABLE; \
    SELECT lo_put(42, 0, 'x'); DROP PROCEDURE app.nothing(); CREATE TABLE app.more (n int)";

/// The commands of `docs/restore.md`.
#[tokio::test]
async fn objects_loaded_by_an_administrator_belong_to_the_owner_role() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let names = ["dump-from", "dump-role", "dump-superuser"];
    let features = json!({"database": {"enabled": true, "extensions": ["citext"]}});
    for name in names {
        cluster.create_customer_with(name, json!({"deletionPolicy": "Delete", "features": features})).await?;
    }
    let mut logins = Vec::new();
    for name in names {
        cluster.ready(name).await?;
        logins.push(cluster.direct(name).await?);
    }
    let [from, role, superuser] = &logins[..] else { unreachable!() };
    from.connect().await?.batch_execute(OBJECTS).await?;
    load(&cluster, from.get("database"), role.get("database"), &format!("--role={}_owner", role.get("database")))
        .await?;
    role.connect().await?.batch_execute(USE).await.context("objects loaded as the owner role")?;

    load(&cluster, from.get("database"), superuser.get("database"), "").await?;
    let refused = superuser.connect().await?.batch_execute("SELECT * FROM v").await;
    let is_refused = refused.is_err_and(|error| error.code().is_some_and(|code| code.code() == "42501"));
    ensure!(is_refused, "the superuser did not own what it loaded: the test proves nothing");
    let restore = include_str!("../../../docs/restore.md");
    let (_, give) = restore.split_once("```sql\nDO $$").context("docs/restore.md has no DO $$")?;
    let (give, _) = give.split_once("```").context("docs/restore.md")?;
    let admin = cluster.admin(superuser.get("database")).await?;
    for _ in 0..2 {
        admin.batch_execute(&format!("DO $${give}")).await.context("docs/restore.md")?;
    }
    superuser.connect().await?.batch_execute(USE).await.context("objects reassigned to the owner role")?;
    for name in names {
        cluster.delete_customer(name).await?;
    }
    Ok(())
}

/// Loads a dump of one database into another as the superuser.
async fn load(cluster: &Cluster, from: &str, to: &str, options: &str) -> Result<()> {
    let script = format!(
        "set -o pipefail; export PGPASSWORD=$(cat /run/secrets/postgres/password) PGHOST=127.0.0.1 PGUSER=postgres\n\
         pg_dump -Fc {from} | pg_restore --no-owner --no-privileges {options} --dbname={to}\n"
    );
    let exec = ["-n", SYSTEM, "exec", "-i", "demo-postgres-0", "--", "bash"];
    cluster.kubectl(&exec, &script).await.map(drop).with_context(|| format!("pg_restore {options}"))
}
