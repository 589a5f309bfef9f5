//! A PgBouncer fleet with more pools than its DatabaseServer has connections.

use ahoi_api::{DatabaseServer, DatabaseServerSpec, GROUP, PgBouncer, PgBouncerSpec, Placement};
use ahoi_e2e::messages::contains_all;
use ahoi_e2e::{Cluster, SYSTEM};
use ahoi_reconcile::{conditions, is_ready};
use anyhow::{Context as _, Result};
use kube::api::PostParams;
use serde_json::{Value, json};

/// Name of the fleet, the server and the customer.
const NAME: &str = "overcommitted";
const SOON: u64 = 30;

fn message(fleet: &PgBouncer) -> &str {
    let conditions = fleet.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    conditions::find(conditions, "Ready").map(|ready| ready.message.as_str()).unwrap_or_default()
}

/// Waits until the fleet is Ready and reports the server as overcommitted, or no longer.
async fn reports(cluster: &Cluster, is_overcommitted: bool) -> Result<String> {
    let what = if is_overcommitted { "reports too few connections" } else { "reports enough connections" };
    let holds = |fleet: Option<&PgBouncer>| {
        fleet.is_some_and(|fleet| {
            is_ready(fleet) && message(fleet).contains("has fewer connections") == is_overcommitted
        })
    };
    let found = cluster.until(&cluster.of::<PgBouncer>(SYSTEM), NAME, what, SOON, holds).await?;
    Ok(message(&found.context("the PgBouncer was deleted")?).to_owned())
}

#[tokio::test]
async fn each_remedy_for_too_few_connections_helps() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let (servers, fleets) = (cluster.all::<DatabaseServer>(), cluster.of::<PgBouncer>(SYSTEM));
    cluster.delete_customer(NAME).await?;
    cluster.delete(&fleets, NAME, 60).await?;
    cluster.delete(&servers, NAME, 60).await?;
    let demo = servers.get("demo").await?.spec;
    // Two processes: 2 * (4 for lookups + 1 of the agent) connections, and none for the pool.
    let spec = DatabaseServerSpec { placement: Placement::Selected, max_pooler_connections: Some(10), ..demo };
    let mut server = DatabaseServer::new(NAME, spec);
    server.metadata.labels = Some([("for".to_owned(), NAME.to_owned())].into());
    // The counts of its status, which deny the deletion, are up to a minute old.
    server.metadata.annotations = Some([(format!("{GROUP}/allow-deletion"), "true".to_owned())].into());
    servers.create(&PostParams::default(), &server).await?;
    let fleet: PgBouncerSpec = serde_json::from_value(json!({"replicas": 2}))?;
    fleets.create(&PostParams::default(), &PgBouncer::new(NAME, fleet)).await?;
    let features = json!({
        "database": {"enabled": true, "serverSelector": {"for": NAME}},
        "connectionPool": {"poolSize": 5, "pgBouncerRef": {"namespace": SYSTEM, "name": NAME}},
    });
    cluster.create_customer_with(NAME, json!({"deletionPolicy": "Delete", "features": features})).await?;
    cluster.ready(NAME).await?;

    let message = reports(&cluster, true).await?;
    println!("overcommitted: {message}");
    let words = [
        "DatabaseServer overcommitted",
        "spec.maxPoolerConnections",
        "spec.connectionBudget.overcommitPercent",
        "spec.replicas",
    ];
    contains_all(&message, &words)?;
    // Each pool keeps one connection in each process.
    cluster.pooled(NAME).await?.connect().await?.batch_execute("SELECT 1").await?;

    let connections =
        |connections: Value| cluster.patch_spec(&servers, NAME, json!({"maxPoolerConnections": connections}));
    connections(json!(12)).await?;
    reports(&cluster, false).await.context("after spec.maxPoolerConnections was raised")?;
    connections(json!(10)).await?;
    reports(&cluster, true).await?;
    let fleet = |spec: Value| cluster.patch_spec(&fleets, NAME, spec);
    fleet(json!({"connectionBudget": {"overcommitPercent": 120}})).await?;
    reports(&cluster, false).await.context("after spec.connectionBudget.overcommitPercent was raised")?;
    fleet(json!({"connectionBudget": {"overcommitPercent": 100}})).await?;
    reports(&cluster, true).await?;
    fleet(json!({"replicas": 1})).await?;
    reports(&cluster, false).await.context("after spec.replicas was lowered")?;
    cluster.delete_customer(NAME).await?;
    cluster.delete(&fleets, NAME, 60).await?;
    cluster.delete(&servers, NAME, 60).await
}
