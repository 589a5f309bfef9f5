//! Credentials are replaced, again and again, and nobody notices.

use std::time::{Duration, Instant};

use ahoi_api::Database;
use ahoi_e2e::Cluster;
use ahoi_e2e::ledger::Ledger;
use ahoi_e2e::postgres::Login;
use ahoi_reconcile::is_ready;
use anyhow::{Context as _, Result, bail, ensure};
use k8s_openapi::api::apps::v1::Deployment;
use serde_json::json;
use tokio::time::{sleep, timeout};
use tokio_postgres::Client;

use crate::{CONNECTIONS, CUSTOMERS, ONE_AT_A_TIME};

/// One with workers beside those of the ledger.
const WORKERS: &str = "ledger-workers";
/// From one login to the other, and back.
const ROUNDS: usize = 2;
/// Two minutes are given to those who read their Secret late, and one to pgbouncer's idle server connections.
const CLOSED: Duration = Duration::from_secs(300);

/// pgbench, which keeps the password it was started with, is no client of this row.
#[tokio::test]
async fn credentials_are_replaced() -> Result<()> {
    let _alone = ONE_AT_A_TIME.lock().await;
    let cluster = Cluster::connect().await?;
    let features = json!({"database": {"enabled": true}, "scheduler": {"enabled": true, "workers": 2}});
    cluster.create_customer_with(WORKERS, json!({"deletionPolicy": "Delete", "features": features})).await?;
    cluster.ready(WORKERS).await?;
    let ledger = Ledger::open(&cluster, &CUSTOMERS, CONNECTIONS).await?;
    let rotated = rounds(&cluster, &ledger).await;
    let report = ledger.close(&cluster).await?;
    println!("rotation: {report}");
    rotated?;
    cluster.delete_customer(WORKERS).await?;
    report.nothing_failed()
}

async fn rounds(cluster: &Cluster, ledger: &Ledger) -> Result<()> {
    let admin = cluster.admin("postgres").await?;
    for round in 1..=ROUNDS {
        let customers = ledger.customers().iter().map(String::as_str).chain([WORKERS]).collect::<Vec<_>>();
        let rolled = generation(cluster).await?;
        let mut former = Vec::new();
        for customer in &customers {
            former.push((cluster.direct(customer).await?, cluster.pooled(customer).await?));
        }
        let started = Instant::now();
        for customer in &customers {
            let credentials = json!({"rotationTrigger": format!("round {round}")});
            let features = json!({"features": {"database": {"credentials": credentials}}});
            cluster.patch_spec(&cluster.customers(), customer, features).await?;
        }
        if round > 1 {
            // Wherever they are in it.
            for controller in ["ahoi-database", "ahoi-pgbouncer"] {
                cluster.kill(controller).await?;
            }
        }
        let closing = former.iter().map(|(direct, _)| closed_when_unused(&admin, direct.get("username")));
        futures::future::try_join_all(closing).await?;
        println!("rotation: round {round}: every former login is closed after {:.0?}", started.elapsed());
        for (customer, (direct, pooled)) in customers.iter().zip(&former) {
            settled(cluster, customer, direct).await?;
            for way in [direct, pooled] {
                let refused = way.connect().await.is_err();
                ensure!(refused, "{customer}: the former password is accepted at port {}", way.get("port"));
            }
            let now = cluster.pooled(customer).await?;
            ensure!(
                now.get("username") != pooled.get("username"),
                "{customer}: the pooled Secret has the former login"
            );
            now.connect().await.with_context(|| format!("{customer}: the new login through the fleet"))?;
            cluster.ready(customer).await?;
        }
        workers_rolled(cluster, rolled).await?;
        ledger.progress(Duration::from_secs(30)).await?;
    }
    Ok(())
}

/// Waits until the login is closed, and looks that it has no session when it is.
async fn closed_when_unused(admin: &Client, login: &str) -> Result<()> {
    let sql = "SELECT rolcanlogin, (SELECT count(*) FROM pg_stat_activity WHERE usename = rolname) \
         FROM pg_roles WHERE rolname = $1";
    let closed = async {
        loop {
            let row = admin.query_one(sql, &[&login]).await?;
            let (open, sessions): (bool, i64) = (row.get(0), row.get(1));
            if !open {
                ensure!(sessions == 0, "{login} was closed while it had {sessions} sessions");
                return Ok(());
            }
            // A catalog cannot be watched; the time-out around this bounds it.
            sleep(Duration::from_millis(200)).await;
        }
    };
    let Ok(outcome) = timeout(CLOSED, closed).await else { bail!("{login} is still open after {CLOSED:?}") };
    outcome
}

/// The status says so, too.
async fn settled(cluster: &Cluster, customer: &str, former: &Login) -> Result<()> {
    let databases = cluster.of::<Database>(&ahoi_api::namespace_of(customer));
    let said = |database: Option<&Database>| {
        let Some(database) = database.filter(|database| is_ready(*database)) else { return false };
        database.status.as_ref().is_some_and(|status| {
            let done = status.credentials.as_ref().is_some_and(|credentials| credentials.previous_login.is_none());
            done && status.login.as_deref() != Some(former.get("username"))
        })
    };
    cluster.until(&databases, customer, "its former login is forgotten", 60, said).await.map(drop)
}

async fn generation(cluster: &Cluster) -> Result<i64> {
    let deployments = cluster.of::<Deployment>(&ahoi_api::namespace_of(WORKERS));
    Ok(deployments.get(&format!("{WORKERS}-worker")).await?.metadata.generation.unwrap_or_default())
}

async fn workers_rolled(cluster: &Cluster, before: i64) -> Result<()> {
    let deployments = cluster.of::<Deployment>(&ahoi_api::namespace_of(WORKERS));
    let rolled = |deployment: Option<&Deployment>| {
        let found = deployment.and_then(|deployment| Some((deployment, deployment.status.as_ref()?)));
        found.is_some_and(|(deployment, status)| {
            deployment.metadata.generation > Some(before)
                && status.observed_generation == deployment.metadata.generation
                && [status.replicas, status.updated_replicas, status.available_replicas] == [Some(2); 3]
        })
    };
    cluster.until(&deployments, &format!("{WORKERS}-worker"), "rolled", 120, rolled).await.map(drop)
}
