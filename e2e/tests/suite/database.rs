//! Life cycle of a customer's database: retained, archived, deleted, repaired, and its deletion while the server is unreachable.

use std::time::Duration;

use ahoi_api::{Database, DatabaseServer, DatabaseServerSpec, DatabaseStatus, Placement};
use ahoi_e2e::Cluster;
use ahoi_e2e::customers::READY;
use ahoi_e2e::refusal::{NO_LOGIN, refused};
use ahoi_reconcile::is_ready;
use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::{Namespace, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt;
use kube::api::{DeleteParams, PostParams};
use serde_json::json;

async fn status(cluster: &Cluster, customer: &str) -> Result<DatabaseStatus> {
    let database = cluster.of::<Database>(&ahoi_api::namespace_of(customer)).get(customer).await?;
    database.status.context("the Database has no status")
}

async fn exists(cluster: &Cluster, database: &str) -> Result<bool> {
    let admin = cluster.admin("postgres").await?;
    Ok(admin.query_opt("SELECT 1 FROM pg_database WHERE datname = $1", &[&database]).await?.is_some())
}

async fn roles_like(cluster: &Cluster, database: &str) -> Result<i64> {
    let admin = cluster.admin("postgres").await?;
    Ok(admin.query_one("SELECT count(*) FROM pg_roles WHERE starts_with(rolname, $1)", &[&database]).await?.get(0))
}

async fn with_rows(cluster: &Cluster, customer: &str, policy: &str) -> Result<DatabaseStatus> {
    let spec = json!({"deletionPolicy": policy, "features": {"database": {"enabled": true}}});
    cluster.create_customer_with(customer, spec).await?;
    cluster.ready(customer).await?;
    let client = cluster.direct(customer).await?.connect().await?;
    client
        .batch_execute("DROP TABLE IF EXISTS kept; CREATE TABLE kept AS SELECT n FROM generate_series(1, 1000) n")
        .await?;
    status(cluster, customer).await
}

#[tokio::test]
async fn retained_data_is_readopted() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let name = "db-retain";
    let before = with_rows(&cluster, name, "Retain").await?;
    let login = cluster.direct(name).await?;
    let uid = cluster.customers().get(name).await?.uid();
    cluster.delete_customer(name).await?;
    let database = before.database_name.context("no database name")?;
    ensure!(exists(&cluster, &database).await?, "Retain lost the database");
    refused(login.connect().await, NO_LOGIN, "is not permitted to log in", "the login of a retained database")?;

    cluster.create_customer(name, json!({"database": {"enabled": true}})).await?;
    let again = cluster.ready(name).await?;
    ensure!(again.uid() != uid);
    ensure!(status(&cluster, name).await?.database_name.as_deref() == Some(database.as_str()));
    let client = cluster.pooled(name).await?.connect().await?;
    let rows: i64 = client.query_one("SELECT count(*) FROM kept", &[]).await?.get(0);
    ensure!(rows == 1000, "{rows} of 1000 rows");
    client.batch_execute("INSERT INTO kept VALUES (1001); CREATE TABLE IF NOT EXISTS more (n int)").await?;
    cluster.delete_customer(name).await
}

#[tokio::test]
async fn archived_data_is_renamed_and_closed() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let name = "db-archive";
    let database = with_rows(&cluster, name, "Archive").await?.database_name.context("no database name")?;
    cluster.delete_customer(name).await?;
    ensure!(!exists(&cluster, &database).await?, "an archived database keeps its name");
    let admin = cluster.admin("postgres").await?;
    let pattern = format!("zz_{database}_");
    let archived = admin
        .query_one("SELECT datname, datconnlimit FROM pg_database WHERE starts_with(datname, $1)", &[&pattern])
        .await
        .context("no archived database")?;
    let (renamed, limit): (String, i32) = (archived.get(0), archived.get(1));
    ensure!(limit == 0, "an archived database accepts {limit} connections");
    let rows: i64 = cluster.admin(&renamed).await?.query_one("SELECT count(*) FROM kept", &[]).await?.get(0);
    ensure!(rows == 1000, "{rows} of 1000 rows are archived");

    cluster.create_customer(name, json!({"database": {"enabled": true}})).await?;
    cluster.ready(name).await?;
    let fresh = cluster.direct(name).await?.connect().await?;
    ensure!(
        fresh.query_one("SELECT to_regclass('kept') IS NULL", &[]).await?.get::<_, bool>(0),
        "archived data was adopted"
    );
    cluster.delete_customer(name).await
}

#[tokio::test]
async fn deletion_policy_delete_drops_the_database_and_its_roles() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let name = "db-delete";
    let database = with_rows(&cluster, name, "Delete").await?.database_name.context("no database name")?;
    // An open session does not block the drop.
    let _session = cluster.direct(name).await?.connect().await?;
    cluster.delete_customer(name).await?;
    ensure!(!exists(&cluster, &database).await?, "Delete left the database");
    let roles = roles_like(&cluster, &database).await?;
    ensure!(roles == 0, "Delete left {roles} roles");
    Ok(())
}

/// The policy applies to the data, also when the feature is disabled.
#[tokio::test]
async fn data_of_a_disabled_feature_is_deleted_with_its_customer() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let name = "db-off-delete";
    let database = with_rows(&cluster, name, "Delete").await?.database_name.context("no database name")?;
    cluster.change(name, json!({"features": {"database": {"enabled": false}}})).await?;
    ensure!(exists(&cluster, &database).await?, "disabling the feature dropped the database");
    cluster.delete_customer(name).await?;
    ensure!(!exists(&cluster, &database).await?, "Delete left the database of a disabled feature");
    let roles = roles_like(&cluster, &database).await?;
    ensure!(roles == 0, "Delete left {roles} roles");
    Ok(())
}

#[tokio::test]
async fn database_names_derive_from_the_uid_and_carry_an_ownership_marker() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let name = "db-marker";
    cluster.create_customer(name, json!({"database": {"enabled": true}})).await?;
    cluster.ready(name).await?;
    let object = cluster.of::<Database>(&ahoi_api::namespace_of(name)).get(name).await?;
    let uid = object.uid().context("no uid")?;
    let database = object.status.and_then(|s| s.database_name).context("no database name")?;
    let hex: String = uid.chars().filter(char::is_ascii_hexdigit).take(12).collect();
    ensure!(database == format!("c_{hex}"), "{database} is not derived from the uid {uid}");
    let admin = cluster.admin("postgres").await?;
    let query =
        "SELECT shobj_description(oid, 'pg_database'), pg_get_userbyid(datdba) FROM pg_database WHERE datname = $1";
    let row = admin.query_one(query, &[&database]).await?;
    let (marker, owner): (String, String) = (row.get(0), row.get(1));
    ensure!(marker.contains(&uid), "the ownership marker {marker} does not contain the uid");
    ensure!(!owner.starts_with("c_"), "the database is owned by {owner}, which could grant access to others");
    cluster.delete_customer(name).await
}

/// The next sweep reverts manual changes in PostgreSQL.
#[tokio::test]
async fn drift_in_postgresql_is_reverted() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let name = "db-drift";
    cluster.create_customer(name, json!({"database": {"enabled": true}})).await?;
    cluster.ready(name).await?;
    let login = cluster.direct(name).await?;
    crate::drift::is_repaired(&cluster, &login, None, 150).await?;

    // A deleted Secret is recreated with working credentials.
    let secrets = cluster.of::<Secret>(&ahoi_api::namespace_of(name));
    let old = secrets.get(&format!("{name}-database")).await?.uid();
    secrets.delete(&format!("{name}-database"), &DeleteParams::default()).await?;
    let made = |s: Option<&Secret>| s.is_some_and(|s| s.uid() != old);
    cluster.until(&secrets, &format!("{name}-database"), "recreated", 60, made).await?;
    cluster.ready(name).await?;
    cluster.direct(name).await?.connect().await.context("the new Secret's login")?;
    cluster.pooled_again(name, 60).await.context("the pooled Secret after the new password")?;
    cluster.delete_customer(name).await
}

/// A database with the ownership marker of another object is never adopted.
#[tokio::test]
async fn a_database_with_another_marker_is_left_unchanged() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let namespace = "customer-db-foreign";
    cluster.delete(&cluster.all::<Namespace>(), namespace, 60).await?;
    // Controllers write only in namespaces with these labels.
    let labels = [ahoi_api::CUSTOMER_LABEL, ahoi_api::NAMESPACE_OWNER_LABEL];
    let labels = labels.map(|label| (label.to_owned(), "db-foreign".to_owned()));
    let meta = ObjectMeta { name: Some(namespace.into()), labels: Some(labels.into()), ..ObjectMeta::default() };
    cluster
        .all::<Namespace>()
        .create(&PostParams::default(), &Namespace { metadata: meta, ..Namespace::default() })
        .await?;
    let databases = cluster.of::<Database>(namespace);
    let object = databases
        .create(&PostParams::default(), &Database::new("foreign", serde_json::from_value(json!({"storage": "1gb"}))?))
        .await?;
    let named = |d: Option<&Database>| d.is_some_and(|d| d.status.as_ref().is_some_and(|s| s.database_name.is_some()));
    let object = cluster.until(&databases, "foreign", "named", 60, named).await?.unwrap_or(object);
    let database = object.status.and_then(|s| s.database_name).context("no name")?;
    let ready = |d: Option<&Database>| d.is_some_and(is_ready);
    cluster.until(&databases, "foreign", "Ready", READY, ready).await?;
    // A comment that is not the ownership marker of this Database.
    let admin = cluster.admin("postgres").await?;
    admin.batch_execute(&format!("COMMENT ON DATABASE {database} IS 'of the accounting department'")).await?;
    cluster.patch_spec(&databases, "foreign", json!({"connectionLimit": 7, "deletionPolicy": "Delete"})).await?;
    let stalled = |d: Option<&Database>| {
        d.and_then(|d| d.status.as_ref())
            .is_some_and(|s| s.conditions.iter().any(|c| c.type_ == "Stalled" && c.reason == "DatabaseNotOwned"))
    };
    cluster.until(&databases, "foreign", "Stalled with the reason DatabaseNotOwned", 60, stalled).await?;
    cluster.delete(&databases, "foreign", 60).await?;
    ensure!(exists(&cluster, &database).await?, "a database that is not ours was dropped");
    admin.batch_execute(&format!("DROP DATABASE {database}")).await?;
    cluster.delete(&cluster.all::<Namespace>(), namespace, 60).await
}

/// A deletion does not wait for an unreachable server, and the drop stays pending.
#[tokio::test]
async fn deletion_completes_while_the_server_is_unreachable() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let (name, server) = ("db-gone", "db-gone");
    cluster.delete_customer(name).await?;
    let servers = cluster.all::<DatabaseServer>();
    let demo = servers.get("demo").await?;
    cluster.delete(&servers, server, 60).await?;
    let mut own =
        DatabaseServer::new(server, DatabaseServerSpec { placement: Placement::Selected, ..demo.spec.clone() });
    // Customers of other tests must not be placed here.
    own.metadata.labels = Some([("for".to_owned(), server.to_owned())].into());
    servers.create(&PostParams::default(), &own).await?;
    let features = json!({"database": {"enabled": true, "serverSelector": {"for": server}}});
    cluster.create_customer_with(name, json!({"deletionPolicy": "Delete", "features": features})).await?;
    cluster.ready(name).await?;
    let database = status(&cluster, name).await?.database_name.context("no name")?;
    // From now on, nothing listens at the address of the server.
    cluster.patch_spec(&servers, server, json!({"host": "gone.ahoi-system.svc", "port": 1})).await?;
    let started = tokio::time::Instant::now();
    cluster.delete_customer(name).await?;
    let took = started.elapsed();
    ensure!(took < Duration::from_secs(60), "deletion took {took:?}");
    ensure!(exists(&cluster, &database).await?, "the database was dropped");

    // The pending removal is carried out when the server is reachable again.
    let pending = |object: Option<&DatabaseServer>| {
        let status = object.and_then(|object| object.status.as_ref());
        status.is_some_and(|status| status.pending_removals.iter().any(|removal| removal.database == database))
    };
    ensure!(pending(Some(&servers.get(server).await?)), "no pending removal");
    cluster.patch_spec(&servers, server, json!({"host": demo.spec.host, "port": demo.spec.port})).await?;
    cluster.until(&servers, server, "no pending removal", 60, |object| object.is_some() && !pending(object)).await?;
    ensure!(!exists(&cluster, &database).await?, "the database was not dropped");
    cluster.delete(&servers, server, 150).await
}
