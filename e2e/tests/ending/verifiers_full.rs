//! A full Secret of password verifiers. Other customers share it, so this test needs the cluster exclusively.

use std::collections::BTreeMap;

use ahoi_api::{Database, DatabaseServer, Passwords, namespace_of, verifier_secret};
use ahoi_e2e::messages::contains_all;
use ahoi_e2e::{Cluster, SYSTEM};
use ahoi_reconcile::{conditions, is_ready};
use anyhow::{Context as _, Result};
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use crate::ALONE;
use crate::world::database_of;

/// Name of the server, its label and the customer.
const NAME: &str = "end-verifiers";
/// Name of the admin role and the admin database.
const ADMIN: &str = "end_verifiers";
/// Verifier in the format of PostgreSQL.
const VERIFIER: &str = "SCRAM-SHA-256$4096:c2FsdHNhbHRzYWx0c2FsdA==$\
                        c3RvcmVkc3RvcmVkc3RvcmVkc3RvcmVkc3RvcmVkc3Q=:c2VydmVyc2VydmVyc2VydmVyc2VydmVyc2VydmVyc2U=";
/// Seconds until a reason is in the status, and until its remedy takes effect.
const SOON: u64 = 30;

/// Returns logins that fill the Secret, so that less capacity is left than one verifier needs.
async fn fillers(cluster: &Cluster, secret: &str) -> Result<Vec<String>> {
    let present = cluster.of::<Secret>(SYSTEM).get(secret).await?.data.unwrap_or_default();
    let size: usize = present.values().map(|value| value.0.len()).sum();
    let count = (1_000_000 - size) / VERIFIER.len();
    Ok((0..count).map(|number| format!("c_{number:012x}_z")).collect())
}

async fn set(cluster: &Cluster, secret: &str, logins: &[String], verifier: Option<&str>) -> Result<()> {
    let value = |_: &String| verifier.map_or(Value::Null, |verifier| json!(verifier));
    let data: BTreeMap<_, _> = logins.iter().map(|login| (login, value(login))).collect();
    // stringData cannot remove an entry.
    let field = if verifier.is_some() { "stringData" } else { "data" };
    let patch = Patch::Merge(json!({ field: data }));
    cluster.of::<Secret>(SYSTEM).patch(secret, &PatchParams::default(), &patch).await?;
    Ok(())
}

#[tokio::test]
async fn a_full_secret_of_verifiers_stalls_new_logins_until_they_can_be_looked_up() -> Result<()> {
    let _alone = ALONE.lock().await;
    let cluster = Cluster::connect().await?;
    cluster.delete_customer(NAME).await?;
    cluster.delete_server(NAME, ADMIN, ADMIN).await?;
    cluster.create_server(NAME, ADMIN, "CREATEDB CREATEROLE", ADMIN).await?;
    // On its own server, the admin role would have created this role.
    let grant = format!("GRANT ahoi_tenants TO {ADMIN} WITH ADMIN OPTION");
    cluster.admin("postgres").await?.batch_execute(&grant).await?;
    let features = json!({"database": {"enabled": true, "serverSelector": {"for": NAME}}});
    cluster.create_customer_with(NAME, json!({"deletionPolicy": "Delete", "features": features})).await?;
    cluster.ready(NAME).await?;
    let database = database_of(&cluster, NAME).await?;
    let secret = verifier_secret(&database);
    let fillers = fillers(&cluster, &secret).await?;
    set(&cluster, &secret, &fillers, Some(VERIFIER)).await?;
    let outcome = walk(&cluster, &database, &secret).await;
    set(&cluster, &secret, &fillers, None).await?;
    outcome?;
    cluster.delete_customer(NAME).await?;
    cluster.delete_server(NAME, ADMIN, ADMIN).await
}

async fn walk(cluster: &Cluster, database: &str, secret: &str) -> Result<()> {
    let former = cluster.pooled(NAME).await?;
    let rotation = json!({"features": {"database": {"credentials": {"rotationRequest": "1"}}}});
    cluster.patch_spec(&cluster.customers(), NAME, rotation).await?;
    let databases = cluster.of::<Database>(&namespace_of(NAME));
    let is_full = |database: Option<&Database>| {
        let conditions = database.and_then(|database| database.status.as_ref()).map(|status| &status.conditions);
        let ready = conditions.and_then(|conditions| conditions::find(conditions, "Ready"));
        ready.is_some_and(|ready| ready.status == "False" && ready.reason == "VerifiersFull")
    };
    let found = cluster.until(&databases, NAME, "VerifiersFull", SOON, is_full).await?.context("deleted")?;
    let conditions = found.status.map(|status| status.conditions).unwrap_or_default();
    let message = &conditions::find(&conditions, "Ready").context("Ready")?.message;
    println!("ending: {message}");
    let statement = "GRANT SELECT ON pg_authid TO";
    contains_all(message, &[&format!("Secret {SYSTEM}/{secret} is full"), &format!("login {database}_b"), statement])?;
    former.connect().await?.batch_execute("SELECT 1").await.context("the login in use")?;

    cluster.admin(ADMIN).await?.batch_execute(&format!("{statement} {ADMIN}")).await?;
    // A sweep detects it within a minute, a change of the spec at once.
    let servers = cluster.all::<DatabaseServer>();
    cluster.patch_spec(&servers, NAME, json!({"maxDatabases": 100})).await?;
    let looks_up = |server: Option<&DatabaseServer>| {
        server.is_some_and(|s| {
            is_ready(s) && s.status.as_ref().is_some_and(|status| status.passwords == Some(Passwords::Lookup))
        })
    };
    cluster.until(&servers, NAME, "status.passwords is Lookup", SOON, looks_up).await?;
    let patch = json!({"metadata": {"annotations": {"retry": "1"}}});
    databases.patch(NAME, &PatchParams::default(), &Patch::Merge(&patch)).await?;
    let secrets = cluster.of::<Secret>(&namespace_of(NAME));
    let has_next = |secret: Option<&Secret>| {
        let data = secret.and_then(|secret| secret.data.as_ref());
        data.and_then(|data| data.get("username")).is_some_and(|login| login.0 != former.get("username").as_bytes())
    };
    cluster.until(&secrets, &format!("{NAME}-pool"), "the Secret has the next login", SOON, has_next).await?;
    cluster.pooled(NAME).await?.connect().await?.batch_execute("SELECT 1").await.context("the next login")?;
    cluster.ready(NAME).await.map(drop)
}
