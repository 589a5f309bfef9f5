//! Rotation of a customer whose clients use all server connections of the pool.

use ahoi_api::{CREDENTIALS_PROVED, ConnectionPool, Database, namespace_of};
use ahoi_e2e::{Cluster, SYSTEM};
use ahoi_reconcile::conditions;
use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::api::ListParams;
use serde_json::json;

const NAME: &str = "full-pool";

#[tokio::test]
async fn a_rotation_reports_a_full_pool_and_completes_when_it_is_not() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let features = json!({"database": {"enabled": true}, "connectionPool": {"poolMode": "Session", "poolSize": 1}});
    cluster.create_customer_with(NAME, json!({"deletionPolicy": "Delete", "features": features})).await?;
    cluster.ready(NAME).await?;
    let pooled = cluster.pooled(NAME).await?;
    let former = pooled.get("username").to_owned();
    let fleet = ListParams::default().labels("internal.example.com/pgbouncer=global");
    let mut sessions = Vec::new();
    for pod in cluster.of::<Pod>(SYSTEM).list(&fleet).await? {
        let address = pod.status.and_then(|status| status.pod_ip).context("a pod without an address")?;
        let session = pooled.clone().at(&address).connect().await?;
        session.query_one("SELECT 1", &[]).await?;
        sessions.push(session);
    }

    let rotation = json!({"features": {"database": {"credentials": {"rotationRequest": "1"}}}});
    cluster.patch_spec(&cluster.customers(), NAME, rotation).await?;
    let pools = cluster.of::<ConnectionPool>(&namespace_of(NAME));
    let unproved = |pool: Option<&ConnectionPool>| {
        let conditions = pool.and_then(|pool| pool.status.as_ref()).map(|status| status.conditions.as_slice());
        let unproved = conditions::find(conditions.unwrap_or_default(), CREDENTIALS_PROVED);
        unproved
            .is_some_and(|c| c.status == "False" && c.message.contains("all server connections of the pool are in use"))
    };
    cluster.until(&pools, NAME, "reports that the pool is full", 60, unproved).await?;
    ensure!(cluster.pooled(NAME).await?.get("username") == former, "an untested login was published");
    for session in &sessions {
        session.query_one("SELECT 1", &[]).await.context("a client with the former login")?;
    }
    let database = cluster.of::<Database>(&namespace_of(NAME)).get(NAME).await?;
    let conditions = database.status.map(|status| status.conditions).unwrap_or_default();
    let ready = conditions::find(&conditions, "Ready").context("Ready")?;
    ensure!(
        !ready.message.contains("restart"),
        "a restart is advised although the Secret has not changed: {}",
        ready.message
    );

    drop(sessions);
    let secrets = cluster.of::<Secret>(&namespace_of(NAME));
    let has_next = |secret: Option<&Secret>| {
        let data = secret.and_then(|secret| secret.data.as_ref());
        data.and_then(|data| data.get("username")).is_some_and(|name| name.0 != former.as_bytes())
    };
    cluster.until(&secrets, "full-pool-pool", "the Secret has the next login", 60, has_next).await?;
    cluster.pooled(NAME).await?.connect().await?.query_one("SELECT 1", &[]).await?;
    cluster.delete_customer(NAME).await
}
