//! An admin role gains and loses the right to read password verifiers: the poolers switch from a file to lookups and back without
//! a failed login.

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
/// The same for the customer that is deleted and created again.
const OTHER_SERVER: &str = "suite-passwords-again";
const OTHER_ADMIN: &str = "suite_passwords_again";
const OTHER_NAME: &str = "passwords-again";

#[tokio::test]
async fn clients_log_in_while_the_source_of_passwords_changes() -> Result<()> {
    let cluster = Cluster::connect().await?;
    server_without_lookup(&cluster, NAME, SERVER, ADMIN).await?;
    let spec = json!({"deletionPolicy": "Delete", "features": database_on(SERVER)});
    cluster.create_customer_with(NAME, spec).await?;
    cluster.ready(NAME).await?;
    changed(&cluster, SERVER, Passwords::File).await?;
    routed(&cluster, NAME, Passwords::File).await?;

    let (stop, stopped) = watch::channel(false);
    let (count, counted) = watch::channel(0);
    let clients = tokio::spawn(log_in_repeatedly(cluster.clone(), stopped, count));
    let outcome = back_and_forth(&cluster, counted).await;
    stop.send_replace(true);
    let (logins, failures) = clients.await??;
    println!("passwords: {logins} logins");
    outcome?;
    ensure!(failures.is_empty(), "{} of {logins} logins failed: {:?}", failures.len(), failures.first());
    cluster.delete_customer(NAME).await?;
    cluster.delete_server(SERVER, ADMIN, ADMIN).await
}

/// pgbouncer never looks up a login that it has read from its auth_file. A login that is deleted and created again while its server
/// changes to `Lookup` has no verifier in any Secret, and works all the same.
#[tokio::test]
async fn a_login_of_the_auth_file_works_again_after_its_server_changed_to_lookup() -> Result<()> {
    let cluster = Cluster::connect().await?;
    server_without_lookup(&cluster, OTHER_NAME, OTHER_SERVER, OTHER_ADMIN).await?;
    let spec = json!({"deletionPolicy": "Retain", "features": database_on(OTHER_SERVER)});
    cluster.create_customer_with(OTHER_NAME, spec.clone()).await?;
    cluster.ready(OTHER_NAME).await?;
    routed(&cluster, OTHER_NAME, Passwords::File).await?;
    let before = cluster.pooled(OTHER_NAME).await?;
    before.connect().await?.batch_execute("CREATE TABLE kept (n int)").await?;
    cluster.delete_customer(OTHER_NAME).await?;

    let admin = cluster.admin(OTHER_ADMIN).await?;
    admin.batch_execute(&format!("GRANT SELECT ON pg_authid TO {OTHER_ADMIN}")).await?;
    changed(&cluster, OTHER_SERVER, Passwords::Lookup).await?;
    cluster.create_customer_with(OTHER_NAME, spec).await?;
    cluster.ready(OTHER_NAME).await?;
    routed(&cluster, OTHER_NAME, Passwords::Lookup).await?;
    let login = cluster.pooled(OTHER_NAME).await?;
    ensure!(login.get("username") == before.get("username"), "the retained data got another login");
    ensure!(login.get("password") != before.get("password"), "the login kept its password");
    // Enough for every process of the fleet.
    for attempt in 1..=20 {
        let client = login.connect().await.with_context(|| format!("login {attempt} after Ready"))?;
        client.batch_execute("SELECT n FROM kept").await?;
    }
    cluster.patch_spec(&cluster.customers(), OTHER_NAME, json!({"deletionPolicy": "Delete"})).await?;
    cluster.delete_customer(OTHER_NAME).await?;
    cluster.delete_server(OTHER_SERVER, OTHER_ADMIN, OTHER_ADMIN).await
}

/// Creates a server whose admin role may not read password verifiers, after removing what an earlier run left.
async fn server_without_lookup(cluster: &Cluster, customer: &str, server: &str, admin: &str) -> Result<()> {
    if cluster.customers().get_opt(customer).await?.is_some() {
        cluster.patch_spec(&cluster.customers(), customer, json!({"deletionPolicy": "Delete"})).await?;
        cluster.delete_customer(customer).await?;
    }
    cluster.delete_server(server, admin, admin).await?;
    cluster.create_server(server, admin, "CREATEDB CREATEROLE", admin).await?;
    // On its own server, the admin role would have created this role.
    let grant = format!("GRANT ahoi_tenants TO {admin} WITH ADMIN OPTION");
    Ok(cluster.admin("postgres").await?.batch_execute(&grant).await?)
}

fn database_on(server: &str) -> serde_json::Value {
    json!({"database": {"enabled": true, "serverSelector": {"for": server}}})
}

async fn back_and_forth(cluster: &Cluster, mut logins: watch::Receiver<usize>) -> Result<()> {
    // Privileges on pg_authid are per database.
    let admin = cluster.admin(ADMIN).await?;
    admin.batch_execute(&format!("GRANT SELECT ON pg_authid TO {ADMIN}")).await?;
    changed(cluster, SERVER, Passwords::Lookup).await?;
    routed(cluster, NAME, Passwords::Lookup).await?;
    more(&mut logins).await?;
    // pgbouncer does not know the second login yet.
    let before = cluster.pooled(NAME).await?;
    cluster.change(NAME, json!({"features": {"database": {"credentials": {"rotationRequest": "1"}}}})).await?;
    let another = |secret: Option<&Secret>| {
        let password = secret.and_then(|secret| secret.data.as_ref()?.get("password"));
        password.is_some_and(|password| password.0 != before.get("password").as_bytes())
    };
    cluster.until(&cluster.of(&namespace_of(NAME)), &format!("{NAME}-pool"), "another login", 60, another).await?;
    more(&mut logins).await?;
    admin.batch_execute(&format!("REVOKE SELECT ON pg_authid FROM {ADMIN}")).await?;
    changed(cluster, SERVER, Passwords::File).await?;
    routed(cluster, NAME, Passwords::File).await?;
    more(&mut logins).await
}

/// Waits for enough logins to reach both processes.
async fn more(logins: &mut watch::Receiver<usize>) -> Result<()> {
    let enough = *logins.borrow() + 40;
    let reached = logins.wait_for(|logins| *logins >= enough);
    timeout(Duration::from_secs(60), reached).await.context("40 logins in 60 s")?.context("the clients ended")?;
    Ok(())
}

/// Waits until the server's passwords come from there.
async fn changed(cluster: &Cluster, server: &str, passwords: Passwords) -> Result<()> {
    let servers = cluster.all::<DatabaseServer>();
    // A change of the spec starts a probe of the server.
    let limit = if passwords == Passwords::Lookup { 100 } else { 101 };
    cluster.patch_spec(&servers, server, json!({"maxDatabases": limit})).await?;
    let is = |server: Option<&DatabaseServer>| {
        server.is_some_and(|s| is_ready(s) && s.status.as_ref().is_some_and(|s| s.passwords == Some(passwords)))
    };
    cluster.until(&servers, server, &format!("passwords by {passwords:?}"), 90, is).await.map(drop)
}

/// Waits until every process has the customer's route with passwords from there.
async fn routed(cluster: &Cluster, customer: &str, passwords: Passwords) -> Result<()> {
    let pools = cluster.of::<ConnectionPool>(&namespace_of(customer));
    let proved = |pool: Option<&ConnectionPool>| {
        let route = pool.and_then(|pool| pool.status.as_ref()?.route.clone());
        pool.is_some_and(is_ready) && route.is_some_and(|route| route.passwords == passwords)
    };
    cluster.until(&pools, customer, &format!("a route with passwords by {passwords:?}"), 60, proved).await.map(drop)
}

async fn log_in_repeatedly(
    cluster: Cluster,
    stopped: watch::Receiver<bool>,
    count: watch::Sender<usize>,
) -> Result<(usize, Vec<String>)> {
    let (mut logins, mut failures) = (0, Vec::new());
    while !*stopped.borrow() {
        // Like a client that reads its mounted Secret at each connection.
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
