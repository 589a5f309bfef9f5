//! Remedies in PostgreSQL: each test follows the message literally, and the object recovers.

use ahoi_api::{Database, namespace_of};
use ahoi_e2e::messages::contains_all;
use ahoi_e2e::{Cluster, SYSTEM};
use ahoi_reconcile::conditions;
use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt as _;
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::{Value, json};

/// Seconds until a reason is in the status, and until its remedy takes effect.
const SOON: u64 = 30;

fn ready_message(database: &Database, reason: &str) -> Option<String> {
    let conditions = database.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    let ready = conditions::find(conditions, "Ready").filter(|ready| ready.status == "False");
    ready.filter(|ready| ready.reason == reason).map(|ready| ready.message.clone())
}

/// Waits for the reason in condition Ready of the Database and returns its message.
async fn reported(cluster: &Cluster, name: &str, reason: &str) -> Result<String> {
    let has = |database: Option<&Database>| database.is_some_and(|found| ready_message(found, reason).is_some());
    let databases = cluster.of::<Database>(&namespace_of(name));
    let found = cluster.until(&databases, name, &format!("Ready=False with the reason {reason}"), SOON, has).await?;
    let message = found.and_then(|found| ready_message(&found, reason)).context("the Database was deleted")?;
    println!("remedies: {reason}: {message}");
    Ok(message)
}

/// Starts a reconcile of the Database at once, as described in docs/conditions.md.
async fn retry(cluster: &Cluster, name: &str) -> Result<()> {
    let patch = json!({"metadata": {"annotations": {"retry": "1"}}});
    let databases = cluster.of::<Database>(&namespace_of(name));
    databases.patch(name, &PatchParams::default(), &Patch::Merge(&patch)).await?;
    Ok(())
}

async fn customer(cluster: &Cluster, name: &str) -> Result<String> {
    let features = json!({"database": {"enabled": true}, "connectionPool": {"enabled": false}});
    cluster.create_customer_with(name, json!({"deletionPolicy": "Delete", "features": features})).await?;
    cluster.ready(name).await?;
    let database = cluster.of::<Database>(&namespace_of(name)).get(name).await?;
    database.status.and_then(|status| status.database_name).context("no name")
}

fn database(feature: Value) -> Value {
    json!({"features": {"database": feature}})
}

/// Runs a shell command in the pod of the demo's PostgreSQL.
async fn in_postgres(cluster: &Cluster, command: &str) -> Result<String> {
    cluster.kubectl(&["exec", "-n", SYSTEM, "demo-postgres-0", "--", "sh", "-ec", command], "").await
}

#[tokio::test]
async fn a_login_that_pg_hba_rejects_is_not_published() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let name = "remedies-hba";
    let database_name = customer(&cluster, name).await?;
    let (login, next) = (format!("{database_name}_a"), format!("{database_name}_b"));
    let remove = format!("sed -i '/{next}/d' \"$PGDATA\"/pg_hba.conf");
    let admin = cluster.admin("postgres").await?;
    in_postgres(&cluster, &format!("sed -i '1i host all {next} all reject' \"$PGDATA\"/pg_hba.conf")).await?;
    admin.batch_execute("SELECT pg_reload_conf()").await?;

    let rotation = database(json!({"credentials": {"rotationRequest": "1"}}));
    cluster.patch_spec(&cluster.customers(), name, rotation).await?;
    let message = reported(&cluster, name, "NewLoginRefused").await;
    let in_use = cluster.direct(name).await?;
    in_postgres(&cluster, &remove).await?;
    admin.batch_execute("SELECT pg_reload_conf()").await?;
    let message = message?;
    contains_all(
        &message,
        &[
            "DatabaseServer demo",
            &next,
            &database_name,
            "rejects connection",
            "Allow it in pg_hba.conf and reload PostgreSQL",
        ],
    )?;
    ensure!(in_use.get("username") == login, "a login that PostgreSQL refuses is published");
    in_use.connect().await?.batch_execute("SELECT 1").await.context("the login in use")?;

    retry(&cluster, name).await?;
    let secrets = cluster.of::<Secret>(&namespace_of(name));
    let has_next = |secret: Option<&Secret>| {
        let data = secret.and_then(|secret| secret.data.as_ref());
        data.and_then(|data| data.get("username")).is_some_and(|login| login.0 == next.as_bytes())
    };
    cluster.until(&secrets, &format!("{name}-database"), "the Secret has the next login", SOON, has_next).await?;
    cluster.direct(name).await?.connect().await?;
    cluster.ready(name).await?;
    cluster.delete_customer(name).await
}

/// A role can revoke only its own grants. PostgreSQL skips the others with a warning.
#[tokio::test]
async fn a_privilege_that_another_role_granted_is_reported_until_it_is_revoked() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let (name, granter) = ("remedies-granter", "remedies_granter");
    let database_name = customer(&cluster, name).await?;
    let admin = cluster.admin("postgres").await?;
    admin
        .batch_execute(&format!(
            "DROP ROLE IF EXISTS {granter}; CREATE ROLE {granter}; \
             GRANT CONNECT ON DATABASE {database_name} TO {granter} WITH GRANT OPTION; \
             SET ROLE {granter}; GRANT CONNECT ON DATABASE {database_name} TO PUBLIC; RESET ROLE"
        ))
        .await?;
    // A sweep detects it within a minute, a change of the spec at once.
    cluster.patch_spec(&cluster.customers(), name, database(json!({"connectionLimit": 7}))).await?;
    let message = reported(&cluster, name, "NotConverging").await?;
    let words = ["DatabaseServer demo", &database_name, "REVOKE ALL ON DATABASE", "FROM PUBLIC", granter];
    contains_all(&message, &words)?;
    let revoke = message.split('`').find(|part| part.starts_with("REVOKE")).context("no statement in the message")?;
    admin.batch_execute(&format!("SET ROLE {granter}; {revoke}; RESET ROLE")).await.context("the statement")?;
    retry(&cluster, name).await?;
    cluster.ready(name).await?;
    cluster.delete_customer(name).await?;
    admin.batch_execute(&format!("DROP ROLE {granter}")).await?;
    Ok(())
}

#[tokio::test]
async fn a_role_that_owns_objects_elsewhere_is_dropped_after_reassign_owned() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let (name, other) = ("remedies-owner", "remedies-elsewhere");
    let (database_name, elsewhere) = tokio::try_join!(customer(&cluster, name), customer(&cluster, other))?;
    let owner = format!("{database_name}_owner");
    let admin = cluster.admin(&elsewhere).await?;
    admin.batch_execute(&format!("CREATE TABLE left_there (n int); ALTER TABLE left_there OWNER TO {owner}")).await?;

    let databases = cluster.of::<Database>(&namespace_of(name));
    let uid = databases.get(name).await?.uid();
    cluster.customers().delete(name, &DeleteParams::default()).await?;
    let message = reported(&cluster, name, "RoleInUse").await?;
    let words = ["DatabaseServer demo", &owner, &elsewhere, "2BP01", "REASSIGN OWNED BY"];
    contains_all(&message, &words)?;
    ensure!(databases.get(name).await?.uid() == uid, "the Database was recreated");
    let reassign =
        message.split('`').find(|part| part.starts_with("REASSIGN")).context("no statement in the message")?;
    admin.batch_execute(&format!("{reassign} postgres")).await.context("the statement")?;
    retry(&cluster, name).await?;
    cluster.until_gone(&cluster.customers(), name, SOON).await?;
    let exists = "SELECT FROM pg_roles WHERE starts_with(rolname, $1)";
    ensure!(admin.query(exists, &[&database_name]).await?.is_empty(), "roles of a deleted Database are left");
    let rows = admin.query("SELECT n FROM left_there", &[]).await.context("the table that the role owned")?;
    ensure!(rows.is_empty());
    cluster.delete_customer(other).await
}
