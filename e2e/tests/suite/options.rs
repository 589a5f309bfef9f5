//! Startup options of clients of the fleet take effect, or the client is refused.

use ahoi_e2e::Cluster;
use ahoi_e2e::refusal::{BY_POOLER, refused};
use anyhow::{Result, ensure};
use serde_json::json;
use tokio_postgres::NoTls;

#[tokio::test]
async fn options_take_effect_or_are_refused() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let name = "options";
    // All clients share one server connection.
    let features = json!({"database": {"enabled": true}, "connectionPool": {"poolSize": 1}});
    cluster.create_customer_with(name, json!({"deletionPolicy": "Delete", "features": features})).await?;
    cluster.ready(name).await?;
    let pooled = cluster.pooled(name).await?;
    let mut config = tokio_postgres::Config::new();
    config.host(pooled.address()).port(pooled.get("port").parse()?).dbname(pooled.get("database"));
    config.user(pooled.get("username")).password(pooled.get("password"));
    let connect = async |options: &str| {
        let mut config = config.clone();
        let (client, connection) = config.options(options).connect(NoTls).await?;
        tokio::spawn(connection);
        anyhow::Ok(client)
    };
    let plain = connect("").await?;
    plain.batch_execute("CREATE SCHEMA app; CREATE TABLE public.t (i int); CREATE TABLE app.t (i int)").await?;
    let app = connect("-c search_path=app").await?;
    for _ in 0..10 {
        app.batch_execute("INSERT INTO t VALUES (1)").await?;
        plain.batch_execute("INSERT INTO t VALUES (2)").await?;
    }
    for (schema, row) in [("app", 1), ("public", 2)] {
        let rows: Vec<i32> = plain
            .query(&format!("SELECT i FROM {schema}.t"), &[])
            .await?
            .into_iter()
            .map(|found| found.get(0))
            .collect();
        ensure!(rows == [row; 10], "rows of {schema}.t: {rows:?}");
    }
    let words = "unsupported startup parameter in options: statement_timeout";
    refused(connect("-c statement_timeout=1s").await, BY_POOLER, words, "an unsupported option")?;
    cluster.delete_customer(name).await
}
