//! TLS modes of a PgBouncer fleet and a DatabaseServer that do not fit together: the message names the field and its new value.

use ahoi_api::{DatabaseServer, PgBouncer};
use ahoi_e2e::messages::contains_all;
use ahoi_e2e::{Cluster, SYSTEM};
use ahoi_reconcile::conditions;
use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

/// Name of the fleet, the server and the customer.
const NAME: &str = "tls-mismatch";

/// Waits for TlsMismatch on the customer with these words.
async fn mismatch(cluster: &Cluster, words: &[&str]) -> Result<()> {
    let customer = cluster.condition(NAME, "ConnectionPoolReady", "False", "TlsMismatch").await?;
    let status = customer.status.context("no status")?;
    let found = conditions::find(&status.conditions, "ConnectionPoolReady").context("ConnectionPoolReady")?;
    println!("tls: {}", found.message);
    contains_all(&found.message, words)
}

#[tokio::test]
async fn a_tls_mismatch_names_the_field_to_set() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let (servers, fleets) = (cluster.all::<DatabaseServer>(), cluster.of::<PgBouncer>(SYSTEM));
    cluster.delete_customer(NAME).await?;
    cluster.delete(&fleets, NAME, 60).await?;
    cluster.delete(&servers, NAME, 60).await?;
    // The counts of its status, which deny the deletion, are up to a minute old.
    let annotations = json!({"internal.example.com/allow-deletion": "true"});
    let server = json!({"apiVersion": "internal.example.com/v1", "kind": "DatabaseServer",
        "metadata": {"name": NAME, "labels": {"for": NAME}, "annotations": annotations},
        "spec": {"host": "demo-postgres.ahoi-system.svc", "placement": "Selected",
            "adminSecretRef": {"namespace": SYSTEM, "name": "demo-postgres"}, "tls": {"mode": "Require"}}});
    cluster.apply(&server.to_string()).await?;
    let fleet = json!({"apiVersion": "internal.example.com/v1", "kind": "PgBouncer",
        "metadata": {"name": NAME, "namespace": SYSTEM}, "spec": {"replicas": 1}});
    cluster.apply(&fleet.to_string()).await?;
    let features = json!({
        "database": {"enabled": true, "serverSelector": {"for": NAME}},
        "connectionPool": {"pgBouncerRef": {"namespace": SYSTEM, "name": NAME}},
    });
    cluster.create_customer_with(NAME, json!({"deletionPolicy": "Delete", "features": features})).await?;

    let set_server = |tls: Value| cluster.patch_spec(&servers, NAME, json!({ "tls": tls }));
    let set_fleet = |mode: &'static str| cluster.patch_spec(&fleets, NAME, json!({"tls": {"server": {"mode": mode}}}));
    let fleet_field = "Set spec.tls.server.mode of the PgBouncer to Require";
    mismatch(&cluster, &["DatabaseServer tls-mismatch requires the TLS mode Require", "uses Prefer", fleet_field])
        .await?;
    set_fleet("Require").await?;
    cluster.ready(NAME).await.context("after the mode of the fleet was set")?;
    let encrypted = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
    let client = cluster.pooled(NAME).await?.connect().await?;
    client.batch_execute("BEGIN; SET LOCAL ROLE NONE").await?;
    ensure!(client.query_one(encrypted, &[]).await?.get::<_, bool>(0), "a connection to PostgreSQL without TLS");
    drop(client);

    set_server(json!({"mode": "Disable"})).await?;
    let (of_server, of_fleet) =
        ("Set spec.tls.mode of the DatabaseServer to Require", "spec.tls.server.mode of the PgBouncer to Prefer");
    mismatch(&cluster, &["spec.tls.mode is Disable", of_server, of_fleet]).await?;
    cluster.pooled(NAME).await?.connect().await?.batch_execute("SELECT 1").await.context("served as before")?;
    set_fleet("Prefer").await?;
    cluster.ready(NAME).await.context("after the mode of the fleet was lowered")?;
    set_fleet("Require").await?;
    mismatch(&cluster, &[of_server, of_fleet]).await?;
    set_server(json!({"mode": "Require"})).await?;
    cluster.ready(NAME).await.context("after the mode of the server was set")?;

    set_fleet("VerifyFull").await?;
    let words = ["verifies", "has no spec.tls.caSecretRef. Set it, and spec.tls.mode to VerifyFull"];
    mismatch(&cluster, &words).await?;
    set_server(json!({"mode": "VerifyFull", "caSecretRef": {"name": "demo-postgres-tls"}})).await?;
    cluster.ready(NAME).await.context("after the mode and the CA of the server were set")?;
    cluster.pooled(NAME).await?.connect().await?.batch_execute("SELECT 1").await?;

    cluster.delete_customer(NAME).await?;
    cluster.delete(&fleets, NAME, 60).await?;
    cluster.delete(&servers, NAME, 60).await
}
