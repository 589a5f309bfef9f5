//! Objects and data without an owner: restored from a backup, orphaned, or left by an earlier customer or another cluster.

use ahoi_api::{ConnectionPool, Customer, Database, DatabaseServer, Scheduler, namespace_of};
use ahoi_e2e::Cluster;
use ahoi_e2e::customers::{DELETED, READY, has_condition};
use ahoi_reconcile::conditions;
use anyhow::{Context as _, Result, ensure};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::api::events::v1::Event;
use kube::api::{DeleteParams, ListParams, PropagationPolicy};
use kube::{Resource, ResourceExt};
use serde_json::{Value, json};

/// DatabaseServer of the demo.
pub const SERVER: &str = "demo";

pub async fn with_rows(cluster: &Cluster, name: &str, policy: &str, features: Value) -> Result<Customer> {
    cluster.create_customer_with(name, json!({"deletionPolicy": policy, "features": features})).await?;
    let customer = cluster.ready(name).await?;
    let client = cluster.direct(name).await?.connect().await?;
    client
        .batch_execute("DROP TABLE IF EXISTS kept; CREATE TABLE kept AS SELECT n FROM generate_series(1, 100) n")
        .await?;
    Ok(customer)
}

pub async fn has_rows(cluster: &Cluster, name: &str) -> Result<()> {
    let client = cluster.pooled_again(name, 60).await?;
    let rows: i64 = client.query_one("SELECT count(*) FROM kept", &[]).await?.get(0);
    ensure!(rows == 100, "{name}: {rows} of 100 rows");
    Ok(())
}

/// Deletes the customer and its data.
pub async fn purge(cluster: &Cluster, name: &str) -> Result<()> {
    cluster.patch_spec(&cluster.customers(), name, json!({"deletionPolicy": "Delete"})).await?;
    cluster.delete_customer(name).await
}

pub async fn database_name(cluster: &Cluster, name: &str) -> Result<String> {
    let database = cluster.of::<Database>(&namespace_of(name)).get(name).await?;
    database.status.and_then(|status| status.database_name).context("a database without a name")
}

pub async fn exists(cluster: &Cluster, database: &str) -> Result<bool> {
    let admin = cluster.admin("postgres").await?;
    Ok(admin.query_opt("SELECT 1 FROM pg_database WHERE datname = $1", &[&database]).await?.is_some())
}

async fn is_owned<K>(cluster: &Cluster, customer: &str, name: &str, owner: &str) -> Result<()>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + std::fmt::Debug
        + serde::de::DeserializeOwned,
{
    let child: K = cluster.of(&namespace_of(customer)).get(name).await?;
    let controllers: Vec<_> = child.owner_references().iter().filter(|owner| owner.controller == Some(true)).collect();
    ensure!(
        controllers.len() == 1 && controllers[0].uid == owner,
        "{} {name}: {:?}",
        K::kind(&()),
        child.owner_references()
    );
    Ok(())
}

async fn is_restored(cluster: &Cluster, name: &str, customer_last: bool) -> Result<()> {
    let jobs = json!([{"name": "nightly", "schedule": "0 3 * * *", "command": ["true"]}]);
    let features = json!({"database": {"enabled": true}, "scheduler": {"enabled": true, "workers": 1, "jobs": jobs}});
    with_rows(cluster, name, "Retain", features).await?;
    let database = database_name(cluster, name).await?;
    let objects = cluster.backup(name, customer_last).await?;
    cluster.delete_customer(name).await?;
    cluster.restore(&objects).await?;
    let customer = cluster.ready(name).await?;
    ensure!(database_name(cluster, name).await? == database, "{name} has another database");
    has_rows(cluster, name).await?;
    let uid = customer.uid().context("no uid")?;
    is_owned::<Database>(cluster, name, name, &uid).await?;
    is_owned::<ConnectionPool>(cluster, name, name, &uid).await?;
    is_owned::<Scheduler>(cluster, name, name, &uid).await?;
    let scheduler = cluster.of::<Scheduler>(&namespace_of(name)).get(name).await?.uid().context("no uid")?;
    is_owned::<Deployment>(cluster, name, &format!("{name}-worker"), &scheduler).await?;
    purge(cluster, name).await
}

#[tokio::test]
async fn a_customer_restored_from_a_backup_becomes_ready_on_its_own_data() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let (first, last) = tokio::join!(
        is_restored(&cluster, "adopt-restored", false),
        is_restored(&cluster, "adopt-restored-last", true),
    );
    first.and(last)
}

#[tokio::test]
async fn an_orphaning_deletion_removes_what_the_customer_has() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let name = "adopt-orphan";
    let features = json!({"database": {"enabled": true}, "scheduler": {"enabled": true, "workers": 1}});
    with_rows(&cluster, name, "Delete", features).await?;
    let database = database_name(&cluster, name).await?;
    let orphan = DeleteParams { propagation_policy: Some(PropagationPolicy::Orphan), ..DeleteParams::default() };
    cluster.customers().delete(name, &orphan).await?;
    cluster.until_gone(&cluster.customers(), name, DELETED).await?;
    cluster.until_gone(&cluster.all::<Namespace>(), &namespace_of(name), DELETED).await?;
    ensure!(!exists(&cluster, &database).await?, "deletionPolicy Delete left the database");
    // A new customer of this name finds no leftovers.
    cluster.create_customer(name, json!({"database": {"enabled": true}})).await?;
    cluster.ready(name).await?;
    purge(&cluster, name).await
}

#[tokio::test]
async fn retained_data_is_adopted_with_an_event_or_refused() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let name = "adopt-refuse";
    let database = json!({"database": {"enabled": true}});
    with_rows(&cluster, name, "Retain", database.clone()).await?;
    cluster.delete_customer(name).await?;

    let spec = json!({"adoptionPolicy": "Refuse", "features": database});
    cluster.create_customer_with(name, spec).await?;
    let refused = cluster.condition(name, "DatabaseReady", "False", "RetainedDataExists").await?;
    ensure!(has_condition(&refused, "Stalled", "True", "RetainedDataExists"));
    let conditions = refused.status.context("no status")?.conditions;
    let message = conditions::find(&conditions, "DatabaseReady").map(|found| found.message.clone()).unwrap_or_default();
    ensure!(message.contains("spec.adoptionPolicy") && message.contains("docs/restore.md"), "{message:?}");

    let customer = cluster.change(name, json!({"adoptionPolicy": "Automatic"})).await?;
    has_rows(&cluster, name).await?;
    let conditions = customer.status.as_ref().context("no status")?.conditions.clone();
    let message = conditions::find(&conditions, "DatabaseReady").map(|found| found.message.clone()).unwrap_or_default();
    ensure!(message.contains("kept since"), "the message does not contain the age of the data: {message:?}");
    let events = cluster.all::<Event>().list(&ListParams::default()).await?;
    let is_adoption = |event: &Event| {
        let about = event.regarding.as_ref().and_then(|regarding| regarding.uid.clone());
        event.reason.as_deref() == Some("DataAdopted") && about == customer.uid()
    };
    ensure!(events.iter().any(is_adoption), "no event DataAdopted about the Customer");

    // Refuse does not apply to data that the customer itself stored.
    cluster.change(name, json!({"adoptionPolicy": "Refuse"})).await?;
    cluster.change(name, json!({"features": {"database": {"enabled": false}}})).await?;
    cluster.change(name, json!({"features": {"database": {"enabled": true}}})).await?;
    has_rows(&cluster, name).await?;
    purge(&cluster, name).await
}

#[tokio::test]
async fn data_of_another_cluster_is_reported_and_adopted_on_request_only() -> Result<()> {
    const FORMER: &str = "ffffffffffffffff";
    let cluster = Cluster::connect().await?;
    let (name, servers) = ("adopt-cluster", cluster.all::<DatabaseServer>());
    with_rows(&cluster, name, "Retain", json!({"database": {"enabled": true}})).await?;
    let database = database_name(&cluster, name).await?;
    cluster.delete_customer(name).await?;
    let admin = cluster.admin("postgres").await?;
    let marker: String = admin
        .query_one("SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = $1", &[&database])
        .await?
        .get(0);
    let mut marker: Value = serde_json::from_str(&marker)?;
    marker["ahoi"]["cluster"] = json!(FORMER);
    marker["ahoi"]["object"] = json!("f".repeat(32));
    admin.batch_execute(&format!("COMMENT ON DATABASE {database} IS '{marker}'")).await?;

    cluster.create_customer(name, json!({"database": {"enabled": true}})).await?;
    let stalled = cluster.condition(name, "DatabaseReady", "False", "DataOfAnotherCluster").await?;
    let conditions = stalled.status.context("no status")?.conditions;
    let message = conditions::find(&conditions, "DatabaseReady").map(|found| found.message.clone()).unwrap_or_default();
    ensure!(message.contains(FORMER) && message.contains("spec.adoptFromCluster"), "{message:?}");
    let is_counted = |server: Option<&DatabaseServer>| {
        server.and_then(|server| server.status.as_ref()).is_some_and(|status| {
            let condition = conditions::find(&status.conditions, "DataOfOtherClusters");
            status.other_clusters.iter().any(|other| other.id == FORMER && other.databases == 1)
                && condition.is_some_and(|condition| condition.status == "True" && condition.message.contains(FORMER))
        })
    };
    cluster.until(&servers, SERVER, "reports the data of another cluster", READY, is_counted).await?;

    cluster.patch_spec(&servers, SERVER, json!({"adoptFromCluster": FORMER})).await?;
    let adopted = async {
        cluster.ready(name).await?;
        ensure!(database_name(&cluster, name).await? == database, "the customer has another database");
        has_rows(&cluster, name).await
    };
    let adopted = adopted.await;
    cluster.patch_spec(&servers, SERVER, json!({"adoptFromCluster": null})).await?;
    adopted?;
    let is_quiet = |server: Option<&DatabaseServer>| {
        let status = server.and_then(|server| server.status.as_ref());
        status.is_some_and(|status| status.other_clusters.iter().all(|other| other.id != FORMER))
    };
    cluster.until(&servers, SERVER, "reports no other cluster", READY, is_quiet).await?;
    purge(&cluster, name).await
}
