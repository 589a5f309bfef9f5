//! PostgreSQL crashes: not asked to stop, but killed.

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

/// Only what is in flight may fail. A server that is back at once leaves nothing to tell, so it is killed as often as it
/// comes back, until its DatabaseServer has told.
#[tokio::test]
async fn postgresql_crashes() -> Result<()> {
    let _alone = ONE_AT_A_TIME.lock().await;
    let cluster = Cluster::connect().await?;
    let servers = cluster.all::<DatabaseServer>();
    let outcome = booking(&cluster, "crash", async |ledger| {
        let begun = Instant::now();
        let unready = |server: Option<&DatabaseServer>| server.is_some_and(|server| !is_ready(server));
        let told = tokio::select! {
            told = cluster.until(&servers, SERVER, "not Ready while it is down", 180, unready) => told?,
            error = crash_again_and_again(&cluster) => match error? {},
        };
        println!("crash: DatabaseServer: {}", told.as_ref().map(not_ready_message).unwrap_or_default());
        println!("crash: told after {:.2?}", begun.elapsed());
        back_again(&cluster, "crash", ledger).await
    })
    .await?;
    only_in_flight(&outcome)
}

async fn crash_again_and_again(cluster: &Cluster) -> Result<Infallible> {
    let pods = cluster.of::<Pod>(SYSTEM);
    let mut killed = String::new();
    loop {
        let another = |pod: Option<&Pod>| running(pod).is_some_and(|id| id != killed);
        let pod = cluster.until(&pods, POD, "running again", 400, another).await?;
        killed = running(pod.as_ref()).context("it has ended by itself")?;
        let postmaster = processes::first_of(&killed).context("its first process is not found")?;
        processes::kill(&[postmaster]).await?;
        println!("crash: killed");
    }
}

/// The id of the container that runs, without the name of what runs it.
fn running(pod: Option<&Pod>) -> Option<String> {
    let container: &ContainerStatus = pod?.status.as_ref()?.container_statuses.as_ref()?.first()?;
    container.state.as_ref()?.running.as_ref()?;
    Some(container.container_id.as_ref()?.rsplit('/').next()?.to_owned())
}
