//! Outages of the control plane: controllers are killed, and the API server is unreachable.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher as _, Hasher as _};
use std::time::Duration;

use ahoi_api::ConnectionPool;
use ahoi_e2e::controllers::controllers;
use ahoi_e2e::ledger::Ledger;
use ahoi_e2e::{Cluster, SYSTEM};
use ahoi_reconcile::is_ready;
use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::apps::v1::Deployment;
use serde_json::json;
use tokio::process::Command;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

use crate::{ONE_AT_A_TIME, booking};

const DAEMON: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/cluster/daemon");
/// Cluster that e2e/run starts.
const CLUSTER: &str = "test";
const NEW: &str = "ledger-new";
const KILLS: usize = 8;
/// Duration of the outage: longer than all leases and grace periods.
const AWAY: Duration = Duration::from_secs(180);

/// All processes of a random controller are killed, repeatedly.
#[tokio::test]
async fn controllers_are_killed_at_random() -> Result<()> {
    let _alone = ONE_AT_A_TIME.lock().await;
    let cluster = Cluster::connect().await?;
    let outcome = booking(&cluster, "controllers", async |ledger| {
        for _ in 0..KILLS {
            let controller = &controllers()[random() % controllers().len()];
            println!("controllers: killing {controller}");
            cluster.kill(controller).await?;
            ledger.progress(Duration::from_secs(30)).await?;
            // The next victim may be the same controller, which must run again.
            back(&cluster).await?;
        }
        routes_stayed(&cluster, ledger).await
    })
    .await?;
    outcome.nothing_failed()
}

#[tokio::test]
async fn the_api_server_is_unreachable() -> Result<()> {
    let _alone = ONE_AT_A_TIME.lock().await;
    let cluster = Cluster::connect().await?;
    let outcome = booking(&cluster, "API server", async |ledger| {
        daemon("stop", "kube-apiserver").await?;
        let outcome = while_away(ledger).await;
        // In any case, because other tests need it.
        daemon("start", "kube-apiserver").await?;
        answers(&cluster).await?;
        outcome?;
        // The control plane now reacts to nodes and pods without heartbeats, and their status is outdated. A new customer
        // proves that all controllers work again.
        let started = Instant::now();
        cluster.create_customer(NEW, json!({"database": {"enabled": true}})).await?;
        cluster.ready(NEW).await?;
        println!("API server: a new customer is Ready {:.1?} after its return", started.elapsed());
        cluster.delete_customer(NEW).await?;
        ledger.progress(Duration::from_secs(30)).await?;
        routes_stayed(&cluster, ledger).await
    })
    .await?;
    outcome.nothing_failed()
}

/// This test needs time to pass.
async fn while_away(ledger: &Ledger) -> Result<()> {
    let begun = Instant::now();
    let mut ticks = interval(Duration::from_secs(5));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while begun.elapsed() < AWAY {
        ticks.tick().await;
        ledger.progress(Duration::from_secs(30)).await.with_context(|| format!("after {:.0?}", begun.elapsed()))?;
    }
    Ok(())
}

/// Waits for all controllers. The kubelet delays restarts of those that exited repeatedly.
async fn back(cluster: &Cluster) -> Result<()> {
    let started = Instant::now();
    let deployments = cluster.of::<Deployment>(SYSTEM);
    for controller in controllers() {
        let available = |deployment: Option<&Deployment>| {
            let status = deployment.and_then(|deployment| deployment.status.as_ref());
            status.is_some_and(|status| status.available_replicas == Some(2))
        };
        cluster.until(&deployments, controller, "two replicas available", 330, available).await?;
    }
    println!("all controllers available after {:.1?}", started.elapsed());
    Ok(())
}

async fn routes_stayed(cluster: &Cluster, ledger: &Ledger) -> Result<()> {
    for customer in ledger.customers() {
        let pools = cluster.of::<ConnectionPool>(&ahoi_api::namespace_of(customer));
        let ready = |pool: Option<&ConnectionPool>| pool.is_some_and(is_ready);
        cluster.until(&pools, customer, "Ready", 120, ready).await?;
    }
    Ok(())
}

async fn daemon(action: &str, daemon: &str) -> Result<()> {
    let done = Command::new(DAEMON).args([CLUSTER, action, daemon]).kill_on_drop(true).status();
    let status = timeout(Duration::from_secs(30), done).await??;
    ensure!(status.success(), "cannot {action} {daemon}: {status}");
    Ok(())
}

async fn answers(cluster: &Cluster) -> Result<()> {
    let answering = async {
        while cluster.kubectl(&["get", "--raw", "/readyz", "--request-timeout=2s"], "").await.is_err() {
            // The time-out around this loop bounds it.
            sleep(Duration::from_millis(200)).await;
        }
    };
    timeout(Duration::from_secs(90), answering).await.context("the API server does not answer")
}

/// Uses the random seed of a hasher.
fn random() -> usize {
    usize::try_from(RandomState::new().build_hasher().finish() % 1000).unwrap_or_default()
}
