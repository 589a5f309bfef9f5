//! TLS on every way: the controller and a fleet verify the server, clients verify the fleet, and a certificate is replaced
//! without anybody being cut off.

use std::time::Duration;

use ahoi_api::{DatabaseServer, PgBouncer};
use ahoi_e2e::tls::{Issued, issue, shown};
use ahoi_e2e::{Cluster, SYSTEM};
use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::{Pod, Secret};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::json;
use tokio::time::{sleep, timeout};

const FLEET: &str = "secured";
const HOST: &str = "secured.ahoi-system.svc";
const UPPER_HOST: &str = "secured-s1.ahoi-system.svc";
const SERVER: &str = "demo-verified";

#[tokio::test]
async fn every_way_is_verified_and_certificates_are_replaced_while_clients_work() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let name = "tls-customer";
    cluster.delete_customer(name).await?;
    let first = issue(&[HOST]).await?;
    install(&cluster, &first).await?;
    let customer = json!({"deletionPolicy": "Delete", "features": {
        "database": {"enabled": true, "serverSelector": {"tls": "verified"}},
        "connectionPool": {"pgBouncerRef": {"namespace": SYSTEM, "name": FLEET}}}});
    cluster.create_customer_with(name, customer).await?;
    cluster.ready(name).await?;

    // Both binding Secrets say how to verify, and both ways work like that.
    let (direct, pooled) = (cluster.direct(name).await?, cluster.pooled(name).await?);
    for login in [&direct, &pooled] {
        ensure!(login.get("sslmode") == "verify-full" && login.get("uri").ends_with("?sslmode=verify-full"));
    }
    ensure!(pooled.get("ca.crt") == first.authority, "another authority in the Secret than in the fleet's");
    let encrypted = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
    for login in [&direct, &pooled] {
        let client = login.connect().await?;
        // Of a session one sees what one may as who it logged in as.
        client.batch_execute("BEGIN; SET LOCAL ROLE NONE").await?;
        ensure!(client.query_one(encrypted, &[]).await?.get::<_, bool>(0), "a connection to PostgreSQL without TLS");
    }
    // And the connection by which the agent notices that the server is gone.
    let server = cluster.all::<DatabaseServer>().get(SERVER).await?;
    let login = server.status.and_then(|status| status.pooler_login).context("no login for the poolers")?;
    let sql = "SELECT bool_and(ssl) FROM pg_stat_activity JOIN pg_stat_ssl USING (pid) \
        WHERE usename = $1 AND application_name = 'ahoi-pgbouncer-agent'";
    let by_tls: Option<bool> = cluster.admin("postgres").await?.query_one(sql, &[&login]).await?.get(0);
    ensure!(by_tls == Some(true), "the agent's connection to PostgreSQL is {by_tls:?}");

    let mut plain = pooled.clone();
    plain.entries.remove("sslmode");
    let refused = plain.connect().await.err().context("a connection without TLS is accepted")?;
    ensure!(format!("{refused:#}{refused:?}").contains("SSL required"), "{refused:?}");

    // A client that stays, while the certificate is replaced by another authority's.
    let pods = cluster.of::<Pod>(SYSTEM);
    let restarts = || async { restarts(&pods.get(&format!("{FLEET}-0")).await?) };
    let (before, staying) = (restarts().await?, pooled.connect().await?);
    let second = issue(&[HOST]).await?;
    put(&cluster, FLEET, &second).await?;
    serves(&cluster, name, &second).await?;
    ensure!(staying.query_one("SELECT 1", &[]).await.is_ok(), "the client that stayed was cut off");
    cluster.pooled(name).await?.connect().await.context("with the new authority from the Secret")?;
    let distrusted = pooled.connect().await.err().context("the new certificate is accepted by the old authority")?;
    ensure!(format!("{distrusted:#}").contains("invalid peer certificate"), "{distrusted:#}");

    // A pair that does not fit is said and not served.
    let broken = Issued { key: first.key.clone(), ..second.clone() };
    put(&cluster, FLEET, &broken).await?;
    let fleets = cluster.of::<PgBouncer>(SYSTEM);
    let says = |text: &'static str| move |fleet: Option<&PgBouncer>| fleet.is_some_and(|fleet| told(fleet, text));
    cluster.until(&fleets, FLEET, "refuses the pair", 60, says("does not belong to its tls.crt")).await?;
    serves(&cluster, name, &second).await?;
    put(&cluster, FLEET, &second).await?;
    cluster.until(&fleets, FLEET, "Ready again", 60, says("1 of 1 processes are ready")).await?;
    ensure!(restarts().await? == before, "pgbouncer was started anew");
    ensure!(staying.query_one("SELECT 1", &[]).await.is_ok(), "the client that stayed was cut off");

    // Another shard has another name.
    cluster.patch_spec(&fleets, FLEET, json!({"shards": 2})).await?;
    let missing = says("does not cover secured-s1.ahoi-system.svc.");
    cluster.until(&fleets, FLEET, "tells what the certificate is not for", 120, missing).await?;
    ensure!(cluster.pooled(name).await?.get("sslmode") == "verify-full", "who could verify the fleet no longer does");
    let both = issue(&[HOST, UPPER_HOST]).await?;
    put(&cluster, FLEET, &both).await?;
    cluster.until(&fleets, FLEET, "Ready with both shards", 120, says("2 of 2 processes are ready")).await?;
    serves(&cluster, name, &both).await?;
    shows(&cluster.address(SYSTEM, "secured-s1").await?, UPPER_HOST, &both).await?;

    cluster.delete_customer(name).await?;
    cluster.delete(&fleets, FLEET, 120).await?;
    cluster.delete(&cluster.all::<DatabaseServer>(), SERVER, 150).await
}

#[tokio::test]
async fn a_server_of_another_authority_or_name_is_not_trusted_and_says_so() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let other = issue(&["demo-postgres.ahoi-system.svc"]).await?;
    put(&cluster, "demo-wrong-ca", &other).await?;
    let servers = cluster.all::<DatabaseServer>();
    for (name, host, secret, words) in [
        ("demo-wrong-ca", "demo-postgres.ahoi-system.svc", "demo-wrong-ca", "authority that is not trusted"),
        (
            "demo-wrong-name",
            "demo-postgres.ahoi-system.svc.cluster.local",
            "demo-postgres-tls",
            "for another host name",
        ),
    ] {
        cluster.apply(&server(name, host, secret, "Closed")).await?;
        let says = |server: Option<&DatabaseServer>| {
            let conditions = server.and_then(|server| server.status.as_ref()).map(|status| &status.conditions);
            conditions.into_iter().flatten().any(|condition| condition.message.contains(words))
        };
        cluster.until(&servers, name, words, 60, says).await?;
        cluster.delete(&servers, name, 60).await?;
    }
    Ok(())
}

async fn install(cluster: &Cluster, issued: &Issued) -> Result<()> {
    put(cluster, FLEET, issued).await?;
    cluster.apply(&server(SERVER, "demo-postgres.ahoi-system.svc", "demo-postgres-tls", "Selected")).await?;
    let fleet = json!({"apiVersion": "internal.example.com/v1", "kind": "PgBouncer",
        "metadata": {"name": FLEET, "namespace": SYSTEM},
        "spec": {"replicas": 1, "tls": {
            "client": {"mode": "Require", "secretRef": {"name": FLEET}}, "server": {"mode": "VerifyFull"}}}});
    cluster.apply(&fleet.to_string()).await
}

fn server(name: &str, host: &str, secret: &str, placement: &str) -> String {
    json!({"apiVersion": "internal.example.com/v1", "kind": "DatabaseServer",
        "metadata": {"name": name, "labels": {"tls": "verified"}},
        "spec": {"host": host, "placement": placement,
            "adminSecretRef": {"namespace": SYSTEM, "name": "demo-postgres"},
            "tls": {"mode": "VerifyFull", "caSecretRef": {"name": secret}}}})
    .to_string()
}

async fn put(cluster: &Cluster, name: &str, issued: &Issued) -> Result<()> {
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
        "metadata": {"name": name, "namespace": SYSTEM},
        "stringData": {"ca.crt": issued.authority, "tls.crt": issued.certificate, "tls.key": issued.key}});
    cluster.apply(&secret.to_string()).await
}

/// Waits until the fleet shows the certificate, and the customer's Secret has its authority.
async fn serves(cluster: &Cluster, customer: &str, issued: &Issued) -> Result<()> {
    let secrets = cluster.of::<Secret>(&ahoi_api::namespace_of(customer));
    let has = |secret: Option<&Secret>| {
        let data = secret.and_then(|secret| secret.data.as_ref());
        data.and_then(|data| data.get("ca.crt")).is_some_and(|pem| pem.0 == issued.authority.as_bytes())
    };
    cluster.until(&secrets, &format!("{customer}-pool"), "the new authority", 60, has).await?;
    shows(cluster.pooled(customer).await?.address(), HOST, issued).await
}

/// Waits until a client that connects to the address by this name sees the certificate and can verify it.
async fn shows(address: &str, host: &str, issued: &Issued) -> Result<()> {
    let expected = CertificateDer::from_pem_slice(issued.certificate.as_bytes())?;
    let all = async {
        // pgbouncer has no watch; the time-out around this bounds it.
        while !shown(address, 6432, host, &issued.authority).await.is_ok_and(|shown| shown == expected) {
            sleep(Duration::from_millis(100)).await;
        }
    };
    timeout(Duration::from_secs(30), all).await.context("the certificate is not shown within 30 s")
}

fn told(fleet: &PgBouncer, text: &str) -> bool {
    fleet.status.iter().flat_map(|status| &status.conditions).any(|condition| condition.message.contains(text))
}

fn restarts(pod: &Pod) -> Result<(String, i32)> {
    let status = pod.status.as_ref().context("a pod without a status")?;
    let count = status.container_statuses.iter().flatten().map(|container| container.restart_count).sum();
    Ok((pod.metadata.uid.clone().context("a pod without a uid")?, count))
}
