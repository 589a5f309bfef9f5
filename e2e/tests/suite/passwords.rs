//! An admin role that may suddenly read password verifiers, and then may not any more: the poolers change from a file to looking
//! passwords up and back, and clients notice nothing.

use std::time::Duration;

use ahoi_api::{ConnectionPool, DatabaseServer, Passwords, namespace_of};
use ahoi_e2e::Cluster;
use ahoi_reconcile::is_ready;
use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::Secret;
use serde_json::json;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

const SERVER: &str = "suite-passwords";
const ADMIN: &str = "suite_passwords";
const NAME: &str = "passwords";

#[tokio::test]
async fn clients_log_in_while_the_source_of_passwords_changes() -> Result<()> {
    let cluster = Cluster::connect().await?;
    cluster.delete_customer(NAME).await?;
    cluster.delete_server(SERVER, ADMIN, ADMIN).await?;
    cluster.create_server(SERVER, ADMIN, "CREATEDB CREATEROLE", ADMIN).await?;
    // On a server of its own it would have created this role.
    let grant = format!("GRANT ahoi_tenants TO {ADMIN} WITH ADMIN OPTION");
    cluster.admin("postgres").await?.batch_execute(&grant).await?;
    let features = json!({"database": {"enabled": true, "serverSelector": {"for": SERVER}}});
    cluster.create_customer_with(NAME, json!({"deletionPolicy": "Delete", "features": features})).await?;
    cluster.ready(NAME).await?;
    changed(&cluster, Passwords::File).await?;

    let (stop, stopped) = watch::channel(false);
    let (count, counted) = watch::channel(0);
    let clients = tokio::spawn(log_in_again_and_again(cluster.clone(), stopped, count));
    let outcome = back_and_forth(&cluster, counted).await;
    stop.send_replace(true);
    let (logins, failures) = clients.await??;
    println!("passwords: {logins} logins");
    outcome?;
    ensure!(failures.is_empty(), "{} of {logins} logins failed: {:?}", failures.len(), failures.first());
    cluster.delete_customer(NAME).await?;
    cluster.delete_server(SERVER, ADMIN, ADMIN).await
}

async fn back_and_forth(cluster: &Cluster, mut logins: watch::Receiver<usize>) -> Result<()> {
    // Each database has privileges of its own on it.
    let admin = cluster.admin(ADMIN).await?;
    admin.batch_execute(&format!("GRANT SELECT ON pg_authid TO {ADMIN}")).await?;
    changed(cluster, Passwords::Lookup).await?;
    more(&mut logins).await?;
    // The second login, which pgbouncer does not know yet.
    let before = cluster.pooled(NAME).await?;
    cluster.change(NAME, json!({"features": {"database": {"credentials": {"rotationTrigger": "1"}}}})).await?;
    let another = |secret: Option<&Secret>| {
        let password = secret.and_then(|secret| secret.data.as_ref()?.get("password"));
        password.is_some_and(|password| password.0 != before.get("password").as_bytes())
    };
    cluster.until(&cluster.of(&namespace_of(NAME)), &format!("{NAME}-pool"), "another login", 60, another).await?;
    more(&mut logins).await?;
    admin.batch_execute(&format!("REVOKE SELECT ON pg_authid FROM {ADMIN}")).await?;
    changed(cluster, Passwords::File).await?;
    more(&mut logins).await
}

/// Waits until clients have logged in so often that both processes have had some.
async fn more(logins: &mut watch::Receiver<usize>) -> Result<()> {
    let enough = *logins.borrow() + 40;
    let reached = logins.wait_for(|logins| *logins >= enough);
    timeout(Duration::from_secs(60), reached).await.context("40 logins in 60 s")?.context("no client any more")?;
    Ok(())
}

/// Waits until the server, and the route of the customer in every process, get their passwords from there.
async fn changed(cluster: &Cluster, passwords: Passwords) -> Result<()> {
    let servers = cluster.all::<DatabaseServer>();
    // A change of its spec has the server looked at now.
    let limit = if passwords == Passwords::Lookup { 100 } else { 101 };
    cluster.patch_spec(&servers, SERVER, json!({"maxDatabases": limit})).await?;
    let is = |server: Option<&DatabaseServer>| {
        server.is_some_and(|s| is_ready(s) && s.status.as_ref().is_some_and(|s| s.passwords == Some(passwords)))
    };
    cluster.until(&servers, SERVER, &format!("passwords by {passwords:?}"), 90, is).await?;
    let pools = cluster.of::<ConnectionPool>(&namespace_of(NAME));
    let proved = |pool: Option<&ConnectionPool>| {
        let route = pool.and_then(|pool| pool.status.as_ref()?.route.clone());
        pool.is_some_and(is_ready) && route.is_some_and(|route| route.passwords == passwords)
    };
    cluster.until(&pools, NAME, &format!("a route with passwords by {passwords:?}"), 60, proved).await.map(drop)
}

async fn log_in_again_and_again(
    cluster: Cluster,
    stopped: watch::Receiver<bool>,
    count: watch::Sender<usize>,
) -> Result<(usize, Vec<String>)> {
    let (mut logins, mut failures) = (0, Vec::new());
    while !*stopped.borrow() {
        // As a client does that reads its mounted Secret whenever it connects.
        let login = cluster.pooled(NAME).await.context("the Secret")?;
        logins += 1;
        let worked = async { anyhow::Ok(login.connect().await?.simple_query("SELECT 1").await?) };
        if let Err(error) = worked.await {
            failures.push(format!("{error:#}"));
        }
        count.send_replace(logins);
        sleep(Duration::from_millis(50)).await;
    }
    Ok((logins, failures))
}
