//! PostgreSQL is unreachable for more than a minute: first its DatabaseServer reports it, then its customers, and then recovery.

use std::time::Duration;

use ahoi_api::Customer;
use ahoi_e2e::customers::has_condition;
use ahoi_e2e::ledger::Ledger;
use ahoi_e2e::{Cluster, SYSTEM};
use ahoi_reconcile::is_ready;
use anyhow::{Result, ensure};
use k8s_openapi::api::apps::v1::StatefulSet;
use kube::api::{Patch, PatchParams};
use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::outage::back_again;
use crate::{CUSTOMERS, ONE_AT_A_TIME, booking};

/// Until then only the server reports the outage.
const GRACE_PERIOD: Duration = Duration::from_secs(60);

#[tokio::test]
async fn postgresql_is_unreachable_for_minutes() -> Result<()> {
    let _alone = ONE_AT_A_TIME.lock().await;
    let cluster = Cluster::connect().await?;
    let outcome = booking(&cluster, "long outage", async |ledger| outage_and_recovery(&cluster, ledger).await).await?;
    outcome.ledger.nothing_lost()
}

async fn outage_and_recovery(cluster: &Cluster, ledger: &Ledger) -> Result<()> {
    replicas(cluster, 0).await?;
    let begun = Instant::now();
    sleep(GRACE_PERIOD.mul_f64(0.8)).await;
    for name in CUSTOMERS {
        ensure!(is_ready(&cluster.customers().get(name).await?), "{name} is not Ready after {:.0?}", begun.elapsed());
    }
    let reported = reported(cluster).await;
    println!("long outage: all customers report it after {:.0?}", begun.elapsed());
    replicas(cluster, 1).await?;
    reported?;
    back_again(cluster, "long outage", ledger).await?;
    let back = Instant::now();
    for name in CUSTOMERS {
        let ready = |customer: Option<&Customer>| customer.is_some_and(is_ready);
        cluster.until(&cluster.customers(), name, "Ready again", 30, ready).await?;
    }
    println!("long outage: all customers are Ready {:.1?} after the server", back.elapsed());
    Ok(())
}

async fn reported(cluster: &Cluster) -> Result<()> {
    for name in CUSTOMERS {
        let says = |customer: Option<&Customer>| {
            customer.is_some_and(|customer| {
                !is_ready(customer) && has_condition(customer, "DatabaseReady", "False", "DatabaseServerUnreachable")
            })
        };
        cluster.until(&cluster.customers(), name, "DatabaseReady=False, DatabaseServerUnreachable", 60, says).await?;
    }
    Ok(())
}

async fn replicas(cluster: &Cluster, replicas: i32) -> Result<()> {
    let patch = Patch::Merge(json!({"spec": {"replicas": replicas}}));
    let sets = cluster.of::<StatefulSet>(SYSTEM);
    sets.patch("demo-postgres", &PatchParams::default(), &patch).await.map(drop).map_err(Into::into)
}
