//! The clients of one customer use as many connections as they can.

use std::time::Duration;

use ahoi_api::{ConnectionPool, DatabaseServer, PgBouncer, namespace_of};
use ahoi_e2e::latency::Percentiles;
use ahoi_e2e::ledger::Ledger;
use ahoi_e2e::{Cluster, SYSTEM};
use anyhow::{Context as _, Result, bail, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use serde_json::json;
use tokio::time::{sleep, timeout};

use crate::{CONNECTIONS, CUSTOMERS, ONE_AT_A_TIME, booking, pgbench};

const NAME: &str = "ledger-flood";
const SERVER: &str = "demo";
const CLIENTS: usize = 1000;
/// Number of clients. All connect before the first query, and wait for each other.
const SCRIPT: &str = "
printf 'BEGIN;\\nSELECT pg_sleep(2);\\nCOMMIT;\\n' >/tmp/flood.sql
touch /tmp/started
pgbench -n -c 1000 -j 2 -T 600 -f /tmp/flood.sql 2>&1
";
/// Number of bookings, enough for a 99th percentile.
const BOOKINGS: usize = 5000;
/// Server connections of each pool in each process during the test: fewer than the pool requests.
const SHARE: i64 = 4;
/// Connections of each process for lookups and of its agent.
const OWN: i64 = 5;

/// Other customers are not refused and do not wait for connections of the flood.
#[tokio::test]
async fn one_customer_floods() -> Result<()> {
    let _alone = ONE_AT_A_TIME.lock().await;
    let cluster = Cluster::connect().await?;
    let outcome = booking(&cluster, "flood", async |ledger| flooded(&cluster, ledger).await).await;
    // Also after a failure.
    let cleared = cluster.delete_customer(NAME).await;
    bound(&cluster, None).await?;
    cleared?;
    outcome?.nothing_failed()
}

async fn flooded(cluster: &Cluster, ledger: &Ledger) -> Result<()> {
    let features = json!({"database": {"enabled": true, "storage": "1gb"}});
    cluster.create_customer_with(NAME, json!({"deletionPolicy": "Delete", "features": features})).await?;
    cluster.ready(NAME).await?;
    let processes = i64::from(cluster.of::<PgBouncer>(SYSTEM).get("global").await?.spec.replicas);
    let pools = cluster.all::<ConnectionPool>().list(&ListParams::default()).await?.items.len();
    let budget = processes * (SHARE * i64::try_from(pools)? + OWN);
    bound(cluster, Some(budget)).await?;
    ledger.progress(Duration::from_secs(30)).await?;

    let login = cluster.pooled(NAME).await?.get("username").to_owned();
    let mut server = Server { cluster, login, max_of_all: 0, max_of_customer: 0 };
    let before = watched(ledger, &mut server).await?;
    println!("flood: before: {before}");

    pgbench::pod(cluster, NAME, "flood", SCRIPT).await?;
    let connected = timeout(Duration::from_secs(180), all_connected(cluster)).await;
    let connected = connected.context("the clients of the flood did not connect within 180 s")??;
    println!("flood: {connected} clients of all customers are connected");
    let during = watched(ledger, &mut server).await?;
    let ratio = during.p99.as_secs_f64() / before.p99.as_secs_f64();
    println!("flood: during: {during}; p99 is {ratio:.2} times higher");
    println!(
        "flood: at most {} of {} connections, {} of {} on the server",
        server.max_of_customer,
        processes * SHARE,
        server.max_of_all,
        budget
    );
    let still = clients(cluster).await?;
    ensure!(still >= CLIENTS, "only {still} clients are left, too few for a flood");

    ensure!(
        server.max_of_customer == processes * SHARE,
        "the customer used {} of {}",
        server.max_of_customer,
        processes * SHARE
    );
    ensure!(server.max_of_all <= budget, "{} connections, more than {budget}", server.max_of_all);
    ensure!(ratio <= 2.0, "p99 was {:?} and is {:?}, {ratio:.2} times as much", before.p99, during.p99);
    let pod = cluster.of::<Pod>(&namespace_of(NAME));
    cluster.delete(&pod, "flood", 60).await
}

/// Sets spec.maxPoolerConnections of the server.
async fn bound(cluster: &Cluster, connections: Option<i64>) -> Result<()> {
    let spec = json!({ "maxPoolerConnections": connections });
    cluster.patch_spec(&cluster.all::<DatabaseServer>(), SERVER, spec).await.map(drop)
}

/// Waits for the bookings, and observes the connections of the server meanwhile.
async fn watched(ledger: &Ledger, server: &mut Server<'_>) -> Result<Percentiles> {
    let latencies = ledger.latencies();
    let _ = latencies.take();
    let enough = async {
        while latencies.count() < BOOKINGS {
            server.observe().await?;
            sleep(Duration::from_millis(500)).await;
        }
        anyhow::Ok(latencies.take())
    };
    timeout(Duration::from_secs(240), enough).await.context("the bookings are too slow")?
}

/// Returns the clients of all customers, as counted by pgbouncer.
async fn clients(cluster: &Cluster) -> Result<usize> {
    let mut clients = 0.0;
    for metric in ["ahoi_pooler_clients_active", "ahoi_pooler_clients_waiting"] {
        clients += cluster.of_agents(metric).await?.iter().map(|(_, value)| value).sum::<f64>();
    }
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    Ok(clients as usize)
}

async fn all_connected(cluster: &Cluster) -> Result<usize> {
    let pods = cluster.of::<Pod>(&namespace_of(NAME));
    loop {
        let clients = clients(cluster).await?;
        // Clients of other customers may be reconnecting.
        if clients >= CLIENTS + CUSTOMERS.len() * CONNECTIONS / 2 {
            return Ok(clients);
        }
        let phase = pods.get("flood").await?.status.and_then(|status| status.phase).unwrap_or_default();
        if phase != "Running" {
            bail!("the flood ended: {}", pods.logs("flood", &kube::api::LogParams::default()).await?);
        }
        sleep(Duration::from_secs(1)).await;
    }
}

/// Connections of PostgreSQL.
struct Server<'a> {
    cluster: &'a Cluster,
    login: String,
    max_of_all: i64,
    max_of_customer: i64,
}

impl Server<'_> {
    async fn observe(&mut self) -> Result<()> {
        // Connections of poolers: logins of customers and lookup logins.
        let query = "SELECT count(*), count(*) FILTER (WHERE usename = $1) FROM pg_stat_activity \
             WHERE usename LIKE 'c\\_%' OR usename LIKE 'ahoi\\_pooler\\_%'";
        let row = self.cluster.admin("postgres").await?.query_one(query, &[&self.login]).await?;
        self.max_of_all = self.max_of_all.max(row.get(0));
        self.max_of_customer = self.max_of_customer.max(row.get(1));
        Ok(())
    }
}
