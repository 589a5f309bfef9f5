//! TLS: the controller and a fleet verify the server, clients verify the fleet, and certificates rotate without ending a
//! connection.

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
async fn tls_is_verified_everywhere_and_certificates_rotate_under_load() -> Result<()> {
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

    // Both binding Secrets require verification, and both connections work with it.
    let (direct, pooled) = (cluster.direct(name).await?, cluster.pooled(name).await?);
    for login in [&direct, &pooled] {
        ensure!(login.get("sslmode") == "verify-full" && login.get("uri").ends_with("?sslmode=verify-full"));
    }
    ensure!(pooled.get("ca.crt") == first.authority, "the Secret does not have the CA of the fleet");
    let encrypted = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
    for login in [&direct, &pooled] {
        let client = login.connect().await?;
        // pg_stat_ssl shows the session only to the role that logged in.
        client.batch_execute("BEGIN; SET LOCAL ROLE NONE").await?;
        ensure!(client.query_one(encrypted, &[]).await?.get::<_, bool>(0), "a connection to PostgreSQL without TLS");
    }
    // The connection by which the agent detects an outage uses TLS as well.
    let server = cluster.all::<DatabaseServer>().get(SERVER).await?;
    let login = server.status.and_then(|status| status.pooler_login).context("no lookup login")?;
    let sql = "SELECT bool_and(ssl) FROM pg_stat_activity JOIN pg_stat_ssl USING (pid) \
        WHERE usename = $1 AND application_name = 'ahoi-pgbouncer-agent'";
    let by_tls: Option<bool> = cluster.admin("postgres").await?.query_one(sql, &[&login]).await?.get(0);
    ensure!(by_tls == Some(true), "the agent's connection to PostgreSQL is {by_tls:?}");

    let mut plain = pooled.clone();
    plain.entries.remove("sslmode");
    let refused = plain.connect().await.err().context("a connection without TLS is accepted")?;
    ensure!(format!("{refused:#}{refused:?}").contains("SSL required"), "{refused:?}");

    // A client stays connected while the certificate is replaced by one of another CA.
    let pods = cluster.of::<Pod>(SYSTEM);
    let restarts = || async { restarts(&pods.get(&format!("{FLEET}-0")).await?) };
    let (before, staying) = (restarts().await?, pooled.connect().await?);
    let second = issue(&[HOST]).await?;
    put(&cluster, FLEET, &second).await?;
    serves(&cluster, name, &second).await?;
    ensure!(staying.query_one("SELECT 1", &[]).await.is_ok(), "the connected client was disconnected");
    cluster.pooled(name).await?.connect().await.context("with the new CA of the Secret")?;
    let distrusted = pooled.connect().await.err().context("the former CA accepts the new certificate")?;
    ensure!(format!("{distrusted:#}").contains("invalid peer certificate"), "{distrusted:#}");

    // A key that does not match the certificate is reported and not loaded.
    let broken = Issued { key: first.key.clone(), ..second.clone() };
    put(&cluster, FLEET, &broken).await?;
    let fleets = cluster.of::<PgBouncer>(SYSTEM);
    let says = |text: &'static str| move |fleet: Option<&PgBouncer>| fleet.is_some_and(|fleet| reports(fleet, text));
    cluster.until(&fleets, FLEET, "reports the mismatched key", 60, says("does not belong to its tls.crt")).await?;
    serves(&cluster, name, &second).await?;
    put(&cluster, FLEET, &second).await?;
    cluster.until(&fleets, FLEET, "Ready again", 60, says("1 of 1 processes are ready")).await?;
    ensure!(restarts().await? == before, "pgbouncer was restarted");
    ensure!(staying.query_one("SELECT 1", &[]).await.is_ok(), "the connected client was disconnected");

    // Another shard has another host name.
    cluster.patch_spec(&fleets, FLEET, json!({"shards": 2})).await?;
    let missing = says("does not cover secured-s1.ahoi-system.svc.");
    cluster.until(&fleets, FLEET, "reports the missing host name", 120, missing).await?;
    ensure!(
        cluster.pooled(name).await?.get("sslmode") == "verify-full",
        "clients of the first shard no longer verify it"
    );
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
async fn a_server_with_an_untrusted_certificate_is_reported() -> Result<()> {
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

/// Waits until the fleet uses the certificate and the Secret of the customer has its CA.
async fn serves(cluster: &Cluster, customer: &str, issued: &Issued) -> Result<()> {
    let secrets = cluster.of::<Secret>(&ahoi_api::namespace_of(customer));
    let has = |secret: Option<&Secret>| {
        let data = secret.and_then(|secret| secret.data.as_ref());
        data.and_then(|data| data.get("ca.crt")).is_some_and(|pem| pem.0 == issued.authority.as_bytes())
    };
    cluster.until(&secrets, &format!("{customer}-pool"), "the new CA", 60, has).await?;
    shows(cluster.pooled(customer).await?.address(), HOST, issued).await
}

/// Waits until a client gets the certificate at the address and can verify it for the host name.
async fn shows(address: &str, host: &str, issued: &Issued) -> Result<()> {
    let expected = CertificateDer::from_pem_slice(issued.certificate.as_bytes())?;
    let all = async {
        // pgbouncer has no watch. The time-out around this loop bounds it.
        while !shown(address, 6432, host, &issued.authority).await.is_ok_and(|shown| shown == expected) {
            sleep(Duration::from_millis(100)).await;
        }
    };
    timeout(Duration::from_secs(30), all).await.context("the certificate is not used within 30 s")
}

fn reports(fleet: &PgBouncer, text: &str) -> bool {
    fleet.status.iter().flat_map(|status| &status.conditions).any(|condition| condition.message.contains(text))
}

fn restarts(pod: &Pod) -> Result<(String, i32)> {
    let status = pod.status.as_ref().context("the pod has no status")?;
    let count = status.container_statuses.iter().flatten().map(|container| container.restart_count).sum();
    Ok((pod.metadata.uid.clone().context("the pod has no uid")?, count))
}
