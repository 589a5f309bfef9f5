//! PostgreSQL is killed.

use std::convert::Infallible;

use ahoi_api::DatabaseServer;
use ahoi_e2e::SYSTEM;
use ahoi_e2e::{Cluster, processes};
use ahoi_reconcile::{is_ready, not_ready_message};
use anyhow::{Context as _, Result};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use tokio::time::Instant;

use crate::outage::{POD, SERVER, back_again, only_in_flight};
use crate::{ONE_AT_A_TIME, booking};

/// Only queries in flight may fail. The server is killed repeatedly until its DatabaseServer is not Ready, because a fast restart
/// would not be noticed.
#[tokio::test]
async fn postgresql_crashes() -> Result<()> {
    let _alone = ONE_AT_A_TIME.lock().await;
    let cluster = Cluster::connect().await?;
    let servers = cluster.all::<DatabaseServer>();
    let outcome = booking(&cluster, "crash", async |ledger| {
        let begun = Instant::now();
        let unready = |server: Option<&DatabaseServer>| server.is_some_and(|server| !is_ready(server));
        let reported = tokio::select! {
            reported = cluster.until(&servers, SERVER, "not Ready during the outage", 180, unready) => reported?,
            error = crash_repeatedly(&cluster) => match error? {},
        };
        println!("crash: DatabaseServer: {}", reported.as_ref().map(not_ready_message).unwrap_or_default());
        println!("crash: reported after {:.2?}", begun.elapsed());
        back_again(&cluster, "crash", ledger).await
    })
    .await?;
    only_in_flight(&outcome)
}

async fn crash_repeatedly(cluster: &Cluster) -> Result<Infallible> {
    let pods = cluster.of::<Pod>(SYSTEM);
    let mut killed = String::new();
    loop {
        let another = |pod: Option<&Pod>| running(pod).is_some_and(|id| id != killed);
        let pod = cluster.until(&pods, POD, "running again", 400, another).await?;
        killed = running(pod.as_ref()).context("the container exited")?;
        let postmaster = processes::first_of(&killed).context("the postmaster was not found")?;
        processes::kill(&[postmaster]).await?;
        println!("crash: killed");
    }
}

/// Returns the id of the running container, without the prefix of the runtime.
fn running(pod: Option<&Pod>) -> Option<String> {
    let container: &ContainerStatus = pod?.status.as_ref()?.container_statuses.as_ref()?.first()?;
    container.state.as_ref()?.running.as_ref()?;
    Some(container.container_id.as_ref()?.rsplit('/').next()?.to_owned())
}
