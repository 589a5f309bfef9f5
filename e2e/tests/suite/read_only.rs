//! A read-only server is reported, gets no new databases, and keeps its customers.

use ahoi_api::{Database, DatabaseServer, namespace_of};
use ahoi_e2e::Cluster;
use ahoi_reconcile::{conditions, is_ready};
use anyhow::{Result, ensure};
use serde_json::json;

const SERVER: &str = "suite-read-only";
const ADMIN: &str = "suite_read_only";

#[tokio::test]
async fn a_read_only_server_is_reported_and_gets_no_new_database() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let [old, new] = ["read-only-old", "read-only-new"];
    for name in [old, new] {
        cluster.delete_customer(name).await?;
    }
    cluster.delete_server(SERVER, ADMIN, "postgres").await?;
    cluster.create_server(SERVER, ADMIN, "SUPERUSER", "postgres").await?;
    let features = json!({"database": {"enabled": true, "serverSelector": {"for": SERVER}}});
    let spec = json!({"deletionPolicy": "Delete", "features": features});
    cluster.create_customer_with(old, spec.clone()).await?;
    cluster.ready(old).await?;

    let admin = cluster.admin("postgres").await?;
    admin.batch_execute(&format!("ALTER ROLE {ADMIN} SET default_transaction_read_only = on")).await?;
    let servers = cluster.all::<DatabaseServer>();
    let reported = |server: Option<&DatabaseServer>| {
        let ready = server.and_then(|server| conditions::find(&server.status.as_ref()?.conditions, "Ready"));
        ready.is_some_and(|ready| ready.status == "False" && ready.reason == "DatabaseServerReadOnly")
    };
    // It is measured every 16 to 24 s.
    let server = cluster.until(&servers, SERVER, "Ready=False, DatabaseServerReadOnly", 40, reported).await?;
    let message = server.map(|server| ahoi_reconcile::not_ready_message(&server)).unwrap_or_default();
    ensure!(message.contains("default_transaction_read_only is on"), "{message}");

    cluster.create_customer_with(new, spec).await?;
    cluster.condition(new, "DatabaseReady", "False", "WaitingForDatabaseServer").await?;
    let placed = cluster.of::<Database>(&namespace_of(new)).get(new).await?;
    ensure!(placed.status.and_then(|status| status.server).is_none(), "placed on a read-only server");
    cluster.ready(old).await?;
    cluster.pooled(old).await?.connect().await?.batch_execute("CREATE TABLE written AS SELECT 1 AS n").await?;

    admin.batch_execute(&format!("ALTER ROLE {ADMIN} RESET default_transaction_read_only")).await?;
    let ready = |server: Option<&DatabaseServer>| server.is_some_and(is_ready);
    cluster.until(&servers, SERVER, "Ready again", 30, ready).await?;
    cluster.ready(new).await?;
    for name in [old, new] {
        cluster.delete_customer(name).await?;
    }
    cluster.delete_server(SERVER, ADMIN, "postgres").await
}
