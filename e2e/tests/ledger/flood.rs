//! One customer asks for everything.

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
/// All connect before the first begins. What they ask for is never there: each has to wait for hundreds of others.
const SCRIPT: &str = "
printf 'BEGIN;\\nSELECT pg_sleep(2);\\nCOMMIT;\\n' >/tmp/flood.sql
touch /tmp/started
pgbench -n -c 1000 -j 2 -T 600 -f /tmp/flood.sql 2>&1
";
/// Enough to say what one of a hundred takes.
const BOOKINGS: usize = 5000;
/// Server connections of each pool in each process while this runs: less than it asks for, so that there is a bound to break.
const SHARE: i64 = 4;
/// Those of each process that look up passwords, and its agent's.
const OWN: i64 = 5;

/// The others notice nothing of it: none is refused, and none waits for what the flood has taken.
#[tokio::test]
async fn one_customer_floods() -> Result<()> {
    let _alone = ONE_AT_A_TIME.lock().await;
    let cluster = Cluster::connect().await?;
    let outcome = booking(&cluster, "flood", async |ledger| flooded(&cluster, ledger).await).await;
    // Also when it failed in the middle.
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
    let mut server = Server { cluster, login, most_of_all: 0, most_of_it: 0 };
    let before = watched(ledger, &mut server).await?;
    println!("flood: before: {before}");

    pgbench::pod(cluster, NAME, "flood", SCRIPT).await?;
    let connected = timeout(Duration::from_secs(180), all_connected(cluster)).await;
    let connected = connected.context("the flood's clients have not connected within 180 s")??;
    println!("flood: {connected} clients of all customers are connected");
    let during = watched(ledger, &mut server).await?;
    let ratio = during.p99.as_secs_f64() / before.p99.as_secs_f64();
    println!("flood: during: {during}; p99 is {ratio:.2} times what it was");
    println!(
        "flood: at most {} of {} connections, {} of {} on the server",
        server.most_of_it,
        processes * SHARE,
        server.most_of_all,
        budget
    );
    let still = clients(cluster).await?;
    ensure!(still >= CLIENTS, "only {still} clients are left: that was no flood");

    ensure!(server.most_of_it == processes * SHARE, "it has used {} of {}", server.most_of_it, processes * SHARE);
    ensure!(server.most_of_all <= budget, "{} connections, {budget} is the budget", server.most_of_all);
    ensure!(ratio <= 2.0, "p99 was {:?} and is {:?}, {ratio:.2} times as much", before.p99, during.p99);
    let pod = cluster.of::<Pod>(&namespace_of(NAME));
    cluster.delete(&pod, "flood", 60).await
}

/// What the poolers may open on the server; none is what it has.
async fn bound(cluster: &Cluster, connections: Option<i64>) -> Result<()> {
    let spec = json!({ "maxPoolerConnections": connections });
    cluster.patch_spec(&cluster.all::<DatabaseServer>(), SERVER, spec).await.map(drop)
}

/// Waits until that many bookings have been made, and looks at the server meanwhile.
async fn watched(ledger: &Ledger, server: &mut Server<'_>) -> Result<Percentiles> {
    let latencies = ledger.latencies();
    let _ = latencies.take();
    let enough = async {
        while latencies.count() < BOOKINGS {
            server.look().await?;
            sleep(Duration::from_millis(500)).await;
        }
        anyhow::Ok(latencies.take())
    };
    timeout(Duration::from_secs(240), enough).await.context("the bookings are too slow")?
}

/// Clients of all customers, as pgbouncer counts them.
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
        // The others' are not counted on: some may just be replaced.
        if clients >= CLIENTS + CUSTOMERS.len() * CONNECTIONS / 2 {
            return Ok(clients);
        }
        let phase = pods.get("flood").await?.status.and_then(|status| status.phase).unwrap_or_default();
        if phase != "Running" {
            bail!("the flood has ended: {}", pods.logs("flood", &kube::api::LogParams::default()).await?);
        }
        sleep(Duration::from_secs(1)).await;
    }
}

/// What PostgreSQL says of its connections.
struct Server<'a> {
    cluster: &'a Cluster,
    login: String,
    most_of_all: i64,
    most_of_it: i64,
}

impl Server<'_> {
    async fn look(&mut self) -> Result<()> {
        // Those of the poolers: customers' logins, and the logins by which passwords are looked up.
        let query = "SELECT count(*), count(*) FILTER (WHERE usename = $1) FROM pg_stat_activity \
             WHERE usename LIKE 'c\\_%' OR usename LIKE 'ahoi\\_pooler\\_%'";
        let row = self.cluster.admin("postgres").await?.query_one(query, &[&self.login]).await?;
        self.most_of_all = self.most_of_all.max(row.get(0));
        self.most_of_it = self.most_of_it.max(row.get(1));
        Ok(())
    }
}
