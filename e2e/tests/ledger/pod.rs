//! The pod of PostgreSQL is deleted without a maintenance request, and recreated with its data.

use ahoi_e2e::ledger::Ledger;
use ahoi_e2e::{Cluster, SYSTEM};
use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use kube::api::DeleteParams;
use serde_json::json;
use tokio::time::Instant;

use crate::outage::{POD, back_again, only_in_flight};
use crate::{CONNECTIONS, ONE_AT_A_TIME, booking};

#[tokio::test]
async fn the_pod_of_postgresql_is_deleted() -> Result<()> {
    let _alone = ONE_AT_A_TIME.lock().await;
    let cluster = Cluster::connect().await?;
    let outcome = booking(&cluster, "pod", async |ledger| {
        replace_pod(&cluster).await?;
        back_again(&cluster, "pod", ledger).await
    })
    .await?;
    only_in_flight(&outcome)
}

/// The admin role may not read passwords, so the agents have no session whose end they would notice.
#[tokio::test]
async fn the_pod_of_postgresql_is_deleted_where_passwords_are_in_files() -> Result<()> {
    const SERVER: &str = "ledger-file";
    const ADMIN: &str = "ledger_file";
    const CUSTOMERS: [&str; 3] = ["ledger-file-a", "ledger-file-b", "ledger-file-c"];
    let _alone = ONE_AT_A_TIME.lock().await;
    let cluster = Cluster::connect().await?;
    for name in CUSTOMERS {
        cluster.delete_customer(name).await?;
    }
    cluster.delete_server(SERVER, ADMIN, ADMIN).await?;
    cluster.create_server(SERVER, ADMIN, "CREATEDB CREATEROLE", ADMIN).await?;
    let features = json!({"database": {"enabled": true, "serverSelector": {"for": SERVER}}});
    let ledger = Ledger::open_with(&cluster, &CUSTOMERS, CONNECTIONS, features).await?;
    let disturbed = async {
        replace_pod(&cluster).await?;
        back_again(&cluster, "pod, File", &ledger).await
    };
    let disturbed = disturbed.await;
    let report = ledger.close(&cluster).await?;
    println!("pod, File: {report}");
    disturbed?;
    report.nothing_lost()?;
    ensure!(report.needless == 0, "clients failed that could have waited:\n{report}");
    cluster.delete_server(SERVER, ADMIN, ADMIN).await
}

/// Deletes the pod and waits until its replacement runs.
pub async fn replace_pod(cluster: &Cluster) -> Result<()> {
    let (pods, started) = (cluster.of::<Pod>(SYSTEM), Instant::now());
    let before = pods.get(POD).await?.uid().context("the pod has no uid")?;
    pods.delete(POD, &DeleteParams::default()).await?;
    let another = |pod: Option<&Pod>| {
        let Some(pod) = pod.filter(|pod| pod.uid().is_some_and(|uid| uid != before)) else { return false };
        pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Running")
    };
    cluster.until(&pods, POD, "the replacement runs", 120, another).await?;
    println!("new pod of PostgreSQL after {:.1?}", started.elapsed());
    Ok(())
}
