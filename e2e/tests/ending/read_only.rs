//! A read-only server, and a deleted DatabaseServer: no login stays open.

use std::time::Instant;

use ahoi_api::DatabaseServer;
use ahoi_e2e::Cluster;
use anyhow::{Context as _, Result, ensure};
use kube::ResourceExt;
use kube::api::DeleteParams;
use serde_json::json;
use tokio_postgres::error::SqlState;

use crate::ALONE;
use crate::refused::{RETRIED, pending, refusal};
use crate::world::{database_of, is_as_before, kept_by, purge, world};

const SERVER: &str = "end-readonly";
const ADMIN: &str = "end_admin";
const POLICIES: [&str; 3] = ["Delete", "Archive", "Retain"];

async fn set_read_only(cluster: &Cluster, on: bool) -> Result<()> {
    let admin = cluster.admin("postgres").await?;
    let value = if on { "on" } else { "off" };
    let end = format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{ADMIN}'");
    admin.batch_execute(&format!("ALTER ROLE {ADMIN} SET default_transaction_read_only = {value}; {end}")).await?;
    Ok(())
}

#[tokio::test]
async fn a_read_only_server_blocks_no_deletion_and_a_deleted_server_leaves_no_login() -> Result<()> {
    let _alone = ALONE.lock().await;
    let cluster = Cluster::connect().await?;
    let names = POLICIES.map(|policy| format!("end-readonly-{}", policy.to_lowercase()));
    for name in &names {
        cluster.delete_customer(name).await?;
    }
    cluster.delete_server(SERVER, ADMIN, "postgres").await?;
    let before = world(&cluster).await?;
    let server = cluster.create_server(SERVER, ADMIN, "SUPERUSER", "postgres").await?;
    for (name, policy) in names.iter().zip(POLICIES) {
        let features = json!({"database": {"enabled": true, "serverSelector": {"for": SERVER}}});
        cluster.create_customer_with(name, json!({"deletionPolicy": policy, "features": features})).await?;
    }
    let (mut databases, mut logins) = (Vec::new(), Vec::new());
    for name in &names {
        cluster.ready(name).await?;
        databases.push(database_of(&cluster, name).await?);
        logins.push(cluster.direct(name).await?);
    }

    set_read_only(&cluster, true).await?;
    let started = Instant::now();
    for name in &names {
        cluster.customers().delete(name, &DeleteParams::default()).await?;
    }
    for name in &names {
        cluster.until_gone(&cluster.customers(), name, 120).await?;
    }
    println!("ending: deleted on a read-only server after {:.0?}", started.elapsed());
    let servers = cluster.all::<DatabaseServer>();
    let found = servers.get(SERVER).await?;
    for database in &databases {
        let removal = pending(Some(&found), database).context("no pending removal")?;
        let message = removal.message.clone().unwrap_or_default();
        ensure!(message.contains("is read-only"), "{message}");
    }

    set_read_only(&cluster, false).await?;
    let done = |object: Option<&DatabaseServer>| {
        object.is_some() && databases.iter().all(|database| pending(object, database).is_none())
    };
    cluster.until(&servers, SERVER, "nothing pending", RETRIED, done).await?;
    for login in &logins {
        ensure!(refusal(login).await?.is_some(), "a login is open");
    }
    let retained = logins.last().context("no login")?;
    ensure!(refusal(retained).await? == Some(SqlState::INVALID_AUTHORIZATION_SPECIFICATION), "not NOLOGIN");
    let mut kept = Vec::new();
    for (policy, database) in POLICIES.iter().zip(&databases) {
        kept.extend(kept_by(&cluster, policy, database).await?);
    }
    println!("ending: {kept:?}");
    purge(&cluster, &kept).await?;

    // A DatabaseServer without databases is deleted with its lookup logins.
    let digits: String = server.uid().context("no uid")?.chars().filter(char::is_ascii_hexdigit).take(8).collect();
    let has_login = async || -> Result<bool> {
        let query = "SELECT 1 FROM pg_roles WHERE starts_with(rolname, $1)";
        let prefix = format!("ahoi_pooler_{digits}_");
        Ok(cluster.admin("postgres").await?.query_opt(query, &[&prefix]).await?.is_some())
    };
    ensure!(has_login().await?, "the server has no lookup login");
    cluster.delete_server(SERVER, ADMIN, "postgres").await?;
    ensure!(!has_login().await?, "the lookup login of a deleted DatabaseServer stays");
    is_as_before(&cluster, &before, &[]).await
}
