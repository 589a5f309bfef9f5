//! Data of deleted customers is listed, and the commands of `docs/restore.md` restore and purge it.

use ahoi_api::{DatabaseServer, KeptDatabase, KeptState, namespace_of};
use ahoi_e2e::Cluster;
use ahoi_e2e::customers::READY;
use anyhow::{Context as _, Result, ensure};
use serde_json::json;

use super::adoption::{SERVER, database_name, exists, has_rows, purge, with_rows};

const GUIDE: &str = include_str!("../../../docs/restore.md");

/// Returns an SQL block of the guide below a heading.
fn sql(heading: &str, block: usize) -> Result<&'static str> {
    let below = GUIDE.split_once(heading).with_context(|| format!("no {heading:?}"))?.1;
    let block = below.split("```sql\n").nth(block + 1).with_context(|| format!("no SQL below {heading:?}"))?;
    Ok(block.split("```").next().unwrap_or_default())
}

/// Replaces the names of the guide by these databases.
fn for_database(sql: &str, database: &str, archived: &str) -> String {
    sql.replace("zz_c_3f2504e04f89_1795795124", archived).replace("c_3f2504e04f89", database)
}

/// Waits until the server lists data of the customer in this state, except the databases `names`. The list is up to a minute old.
async fn listed(cluster: &Cluster, name: &str, names: [&str; 2], state: KeptState) -> Result<KeptDatabase> {
    let [database, earlier] = names;
    let entry = |server: &DatabaseServer| {
        let kept = server.status.iter().flat_map(|status| &status.kept);
        let mut found = kept.filter(|kept| {
            let is_it = kept.database.contains(database) && kept.database != earlier;
            is_it && kept.name.as_deref() == Some(name) && kept.state == state
        });
        found.next().cloned()
    };
    let is_listed = |server: Option<&DatabaseServer>| server.and_then(entry).is_some();
    let what = format!("status.kept has the data of {name} as {state:?}");
    let server = cluster.until(&cluster.all::<DatabaseServer>(), SERVER, &what, READY, is_listed).await?;
    server.as_ref().and_then(entry).context("the entry was removed")
}

/// Runs the statements one by one, because DROP DATABASE cannot run in a transaction.
async fn run_each(cluster: &Cluster, sql: &str) -> Result<()> {
    let admin = cluster.admin("postgres").await?;
    for statement in sql.split_inclusive(";\n") {
        admin.batch_execute(statement).await.with_context(|| statement.to_owned())?;
    }
    Ok(())
}

async fn roles(cluster: &Cluster, database: &str) -> Result<i64> {
    let admin = cluster.admin("postgres").await?;
    let sql = "SELECT count(*) FROM pg_roles WHERE rolname LIKE $1";
    Ok(admin.query_one(sql, &[&format!("{database}\\_%")]).await?.get(0))
}

#[tokio::test]
async fn archived_data_is_listed_restored_and_purged_as_documented() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let name = "kept-archive";
    let features = json!({"database": {"enabled": true}});
    with_rows(&cluster, name, "Archive", features.clone()).await?;
    let database = database_name(&cluster, name).await?;
    cluster.delete_customer(name).await?;

    let kept = listed(&cluster, name, [&database, ""], KeptState::Archived).await?;
    ensure!(kept.database.starts_with(&format!("zz_{database}_")), "{kept:?}");
    ensure!(kept.namespace == Some(namespace_of(name)) && kept.cluster.is_none(), "{kept:?}");
    ensure!(kept.since.is_some() && kept.size_bytes.is_some_and(|size| size > 1_000_000), "{kept:?}");
    let status = cluster.all::<DatabaseServer>().get(SERVER).await?.status.context("no status")?;
    ensure!(
        status.archived_database_count.is_some_and(|archived| archived >= 1),
        "{:?}",
        status.archived_database_count
    );
    let admin = cluster.admin("postgres").await?;
    let rows = admin.query(sql("### List", 0)?.trim_end_matches(";\n"), &[]).await?;
    ensure!(
        rows.iter().any(|row| row.get::<_, String>("database") == kept.database),
        "the list of the guide does not contain it"
    );

    admin.batch_execute(&for_database(sql("### Restore", 0)?, &database, &kept.database)).await?;
    let spec = json!({"deletionPolicy": "Archive", "features": features});
    cluster.create_customer_with(name, spec).await?;
    cluster.ready(name).await?;
    ensure!(database_name(&cluster, name).await? == database, "it has another database");
    has_rows(&cluster, name).await?;

    cluster.delete_customer(name).await?;
    let again = listed(&cluster, name, [&database, &kept.database], KeptState::Archived).await?;
    run_each(&cluster, &for_database(sql("### Purge", 1)?, &database, &again.database)).await?;
    ensure!(!exists(&cluster, &again.database).await? && roles(&cluster, &database).await? == 0);
    let is_gone = |server: Option<&DatabaseServer>| {
        let mut kept = server.iter().filter_map(|server| server.status.as_ref()).flat_map(|status| &status.kept);
        server.is_some() && kept.all(|kept| kept.database != again.database)
    };
    cluster.until(&cluster.all::<DatabaseServer>(), SERVER, "not listed", READY, is_gone).await.map(drop)
}

#[tokio::test]
async fn retained_data_is_listed_and_purged_as_documented() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let name = "kept-retain";
    let features = json!({"database": {"enabled": true}});
    with_rows(&cluster, name, "Retain", features.clone()).await?;
    let database = database_name(&cluster, name).await?;
    cluster.delete_customer(name).await?;
    let kept = listed(&cluster, name, [&database, ""], KeptState::Retained).await?;
    ensure!(kept.database == database && kept.namespace == Some(namespace_of(name)), "{kept:?}");
    ensure!(kept.since.is_some() && kept.size_bytes.is_some(), "{kept:?}");
    run_each(&cluster, &for_database(sql("### Purge", 0)?, &database, "")).await?;
    ensure!(!exists(&cluster, &database).await? && roles(&cluster, &database).await? == 0);
    // A new customer of this name gets an empty database.
    cluster.create_customer(name, features).await?;
    cluster.ready(name).await?;
    ensure!(database_name(&cluster, name).await? != database);
    purge(&cluster, name).await
}
