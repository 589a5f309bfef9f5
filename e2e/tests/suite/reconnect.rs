//! A reconnect replaces server connections, so that prepared statements match a changed table.

use ahoi_api::{ConnectionPool, namespace_of};
use ahoi_e2e::Cluster;
use anyhow::{Context as _, Result, ensure};
use serde_json::json;

#[tokio::test]
async fn a_reconnect_replaces_the_server_connections() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let name = "reconnect";
    let features = json!({"database": {"enabled": true}, "connectionPool": {"poolSize": 1}});
    cluster.create_customer_with(name, json!({"deletionPolicy": "Delete", "features": features})).await?;
    cluster.ready(name).await?;
    let pooled = cluster.pooled(name).await?;
    let processes = cluster.of_agents("ahoi_pooler_routes").await?.len() * 8;
    let select = "SELECT * FROM changing";
    // Enough sessions for each process.
    let mut sessions = Vec::new();
    for _ in 0..processes {
        sessions.push(pooled.connect().await?);
    }
    sessions[0].batch_execute("CREATE TABLE changing (a int); INSERT INTO changing VALUES (1)").await?;
    for session in &sessions {
        session.query(select, &[]).await?;
    }
    sessions[0].batch_execute("ALTER TABLE changing ADD b int").await?;
    drop(sessions);
    let stale = pooled.connect().await?.query(select, &[]).await;
    let stale = stale.err().context("a statement from before the change works: the test proves nothing")?;
    ensure!(stale.code().is_some_and(|code| code.code() == "0A000"), "{stale:?}");

    let changed = cluster.change(name, json!({"features": {"connectionPool": {"reconnectRequest": "1"}}})).await?;
    let pools = cluster.of::<ConnectionPool>(&namespace_of(name));
    let done = |pool: Option<&ConnectionPool>| {
        let Some(pool) = pool else { return false };
        let status = pool.status.clone().unwrap_or_default();
        let ready = status.conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True");
        let route = status.route.and_then(|route| route.reconnect_request);
        ready && status.observed_generation == pool.metadata.generation && route.as_deref() == Some("1")
    };
    ensure!(changed.metadata.generation.is_some());
    cluster.until(&pools, name, "server connections replaced", 30, done).await?;
    for _ in 0..processes {
        let rows = pooled.connect().await?.query(select, &[]).await?;
        ensure!(rows[0].len() == 2, "{} columns", rows[0].len());
    }
    cluster.delete_customer(name).await
}
