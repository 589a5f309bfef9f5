//! Repeated rotations of credentials without a failed query.

use std::time::{Duration, Instant};

use ahoi_api::{Database, DatabaseServer};
use ahoi_e2e::Cluster;
use ahoi_e2e::ledger::Ledger;
use ahoi_e2e::postgres::Login;
use ahoi_reconcile::is_ready;
use anyhow::{Context as _, Result, bail, ensure};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use serde_json::json;
use tokio::sync::oneshot::{self, error::TryRecvError};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_postgres::Client;

use crate::outage::SERVER;
use crate::{CONNECTIONS, CUSTOMERS, ONE_AT_A_TIME, booking};

/// Customer with workers, in addition to those of the ledger.
const WORKERS: &str = "ledger-workers";
/// Number of rotations: one by request, one by interval.
const ROUNDS: usize = 2;
/// Time until the former login is closed: two minutes for clients to read the Secret, and one for idle server connections.
const CLOSED: Duration = Duration::from_secs(300);

/// Without pgbench, which keeps its first password.
#[tokio::test]
async fn credentials_are_rotated() -> Result<()> {
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
            let by_trigger = json!({"rotationRequest": format!("round {round}"), "rotationInterval": null});
            let credentials = if round == 1 { by_trigger } else { by_age(cluster, customer).await? };
            let features = json!({"features": {"database": {"credentials": credentials}}});
            cluster.patch_spec(&cluster.customers(), customer, features).await?;
        }
        if round > 1 {
            // In any state of the rotation.
            for controller in ["ahoi-database", "ahoi-pgbouncer"] {
                cluster.kill(controller).await?;
            }
        }
        let closing = former.iter().map(|(direct, _)| closed_when_unused(&admin, direct.get("username")));
        futures::future::try_join_all(closing).await?;
        println!("rotation: round {round}: all former logins closed after {:.0?}", started.elapsed());
        for (customer, (direct, pooled)) in customers.iter().zip(&former) {
            settled(cluster, customer, direct).await?;
            for login in [direct, pooled] {
                let refused = login.connect().await.is_err();
                ensure!(refused, "{customer}: port {} accepts the former password", login.get("port"));
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

/// Sets the minimum interval, and a status whose credentials are older.
async fn by_age(cluster: &Cluster, customer: &str) -> Result<serde_json::Value> {
    let databases = cluster.of::<Database>(&ahoi_api::namespace_of(customer));
    let rotated_at = Timestamp::from_second(Timestamp::now().as_second() - 7200)?;
    let status = json!({"status": {"credentials": {"rotatedAt": rotated_at}}});
    databases.patch_status(customer, &PatchParams::default(), &Patch::Merge(status)).await?;
    Ok(json!({"rotationInterval": "1h"}))
}

/// Rotation of the lookup login of the poolers, which all logins of clients depend on.
#[tokio::test]
async fn the_lookup_login_is_rotated() -> Result<()> {
    let _alone = ONE_AT_A_TIME.lock().await;
    let cluster = Cluster::connect().await?;
    let outcome = booking(&cluster, "rotation of the lookup login", async |_| {
        let (servers, admin) = (cluster.all::<DatabaseServer>(), cluster.admin("postgres").await?);
        let newcomers = Newcomers::start(&cluster).await?;
        for round in 1..=ROUNDS {
            let login = |server: &DatabaseServer| server.status.as_ref().and_then(|status| status.pooler_login.clone());
            let former = login(&servers.get(SERVER).await?).context("the server has no lookup login")?;
            let started = Instant::now();
            let trigger = format!("{:?}", std::time::SystemTime::now());
            let request = json!({"poolerCredentials": {"rotationRequest": trigger}});
            cluster.patch_spec(&servers, SERVER, request).await?;
            if round > 1 {
                cluster.kill("ahoi-database").await?;
            }
            let is_another =
                |server: Option<&DatabaseServer>| server.and_then(login).is_some_and(|login| login != former);
            cluster.until(&servers, SERVER, "a new lookup login", 60, is_another).await?;
            closed_when_unused(&admin, &former).await?;
            println!("rotation of the lookup login: round {round}: {former} closed after {:.0?}", started.elapsed());
        }
        cluster.patch_spec(&servers, SERVER, json!({"poolerCredentials": null})).await?;
        newcomers.stop().await
    })
    .await?;
    outcome.nothing_failed()
}

/// Clients that log in repeatedly.
struct Newcomers {
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<usize>>,
}

impl Newcomers {
    async fn start(cluster: &Cluster) -> Result<Newcomers> {
        let mut logins = Vec::new();
        for customer in CUSTOMERS {
            logins.push(cluster.pooled(customer).await?);
        }
        let (stop, mut stopped) = oneshot::channel();
        let task = tokio::spawn(async move {
            let mut count = 0;
            while stopped.try_recv() == Err(TryRecvError::Empty) {
                for login in &logins {
                    let client = login.connect().await.with_context(|| format!("newcomer {count}"))?;
                    client.query_one("SELECT 1", &[]).await.with_context(|| format!("newcomer {count}"))?;
                    count += 1;
                }
                // About twenty a second.
                sleep(Duration::from_millis(150)).await;
            }
            Ok(count)
        });
        Ok(Newcomers { stop, task })
    }

    async fn stop(self) -> Result<()> {
        // A closed channel means that the task failed.
        let _ = self.stop.send(());
        let count = self.task.await??;
        println!("rotation of the lookup login: {count} new logins, none refused");
        ensure!(count > 100, "only {count} clients logged in");
        Ok(())
    }
}

/// Waits until the login is closed, and fails if it still has sessions then.
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
            // PostgreSQL has no watch. The time-out around this loop bounds it.
            sleep(Duration::from_millis(200)).await;
        }
    };
    let Ok(outcome) = timeout(CLOSED, closed).await else { bail!("{login} is still open after {CLOSED:?}") };
    outcome
}

/// Waits until the status has no former login.
async fn settled(cluster: &Cluster, customer: &str, former: &Login) -> Result<()> {
    let databases = cluster.of::<Database>(&ahoi_api::namespace_of(customer));
    let is_settled = |database: Option<&Database>| {
        let Some(database) = database.filter(|database| is_ready(*database)) else { return false };
        database.status.as_ref().is_some_and(|status| {
            let done = status.credentials.as_ref().is_some_and(|credentials| credentials.previous_login.is_none());
            done && status.login.as_deref() != Some(former.get("username"))
        })
    };
    cluster.until(&databases, customer, "no former login", 60, is_settled).await.map(drop)
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
