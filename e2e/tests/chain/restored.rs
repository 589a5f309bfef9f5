//! Kubernetes is rebuilt from a backup whose objects have their status, while PostgreSQL survived.

use ahoi_api::{Database, DatabaseServer, namespace_of};
use ahoi_e2e::Cluster;
use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::ONE_AT_A_TIME;

/// Id of the lost cluster.
const FORMER: &str = "eeeeeeeeeeeeeeee";

async fn database_of(cluster: &Cluster, name: &str) -> Result<String> {
    let database = cluster.of::<Database>(&namespace_of(name)).get(name).await?;
    database.status.and_then(|status| status.database_name).context("a database without a name")
}

async fn has_rows(cluster: &Cluster, name: &str) -> Result<()> {
    let client = cluster.pooled_again(name, 60).await?;
    let rows: i64 = client.query_one("SELECT count(*) FROM kept", &[]).await?.get(0);
    ensure!(rows == 100, "{name}: {rows} of 100 rows");
    Ok(())
}

/// Sets the ownership marker as after a rebuild: the database belongs to another cluster and was in use there.
async fn is_of_the_former_cluster(cluster: &Cluster, database: &str) -> Result<()> {
    let admin = cluster.admin("postgres").await?;
    let sql = "SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = $1";
    let marker: String = admin.query_one(sql, &[&database]).await?.get(0);
    let mut marker: Value = serde_json::from_str(&marker)?;
    let object = "e".repeat(32);
    for (field, value) in [("cluster", FORMER), ("object", object.as_str()), ("state", "active")] {
        marker["ahoi"][field] = json!(value);
    }
    admin.batch_execute(&format!("COMMENT ON DATABASE {database} IS '{marker}'")).await?;
    Ok(())
}

#[tokio::test]
async fn objects_restored_with_status_become_ready_on_their_own_data() -> Result<()> {
    let _alone = ONE_AT_A_TIME.lock().await;
    let cluster = Cluster::connect().await?;
    let (here, there) = ("restored-here", "restored-there");
    let features = json!({"database": {"enabled": true}, "scheduler": {"enabled": true, "workers": 1}});
    let mut backups = Vec::new();
    let mut databases = Vec::new();
    for name in [here, there] {
        cluster.create_customer(name, features.clone()).await?;
        cluster.ready(name).await?;
        let client = cluster.direct(name).await?.connect().await?;
        let rows = "DROP TABLE IF EXISTS kept; CREATE TABLE kept AS SELECT n FROM generate_series(1, 100) n";
        client.batch_execute(rows).await?;
        databases.push(database_of(&cluster, name).await?);
        backups.push(cluster.backup(name, false).await?);
    }
    for name in [here, there] {
        cluster.delete_customer(name).await?;
    }
    is_of_the_former_cluster(&cluster, &databases[1]).await?;

    cluster.stop_all().await?;
    let restored = async {
        for backup in &backups {
            cluster.restore_with_status(backup).await?;
        }
        anyhow::Ok(())
    };
    let restored = restored.await;
    cluster.start_all().await?;
    restored?;

    cluster.ready(here).await?;
    ensure!(database_of(&cluster, here).await? == databases[0], "{here} has a different database");
    has_rows(&cluster, here).await?;

    cluster.condition(there, "DatabaseReady", "False", "DataOfAnotherCluster").await?;
    let servers = cluster.all::<DatabaseServer>();
    cluster.patch_spec(&servers, "demo", json!({"adoptFromCluster": FORMER})).await?;
    let adopted = async {
        cluster.ready(there).await?;
        ensure!(database_of(&cluster, there).await? == databases[1], "{there} has a different database");
        has_rows(&cluster, there).await
    };
    let adopted = adopted.await;
    cluster.patch_spec(&servers, "demo", json!({"adoptFromCluster": null})).await?;
    adopted?;
    for name in [here, there] {
        cluster.patch_spec(&cluster.customers(), name, json!({"deletionPolicy": "Delete"})).await?;
        cluster.delete_customer(name).await?;
    }
    Ok(())
}
