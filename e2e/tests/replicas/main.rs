//! A controller in three partitions whose replicas are scaled, killed, stopped and replaced, while all customers change
//! continuously: no change is lost, and no replica writes to a customer of another replica's partition.

mod load;
mod partitions;

use std::time::{Duration, Instant};

use ahoi_e2e::audit::Audit;
use ahoi_e2e::{Cluster, fencing};
use anyhow::{Context as _, Result, ensure};

use crate::load::Load;
use crate::partitions::{CONTROLLER, PARTITIONS, Replicas};

#[tokio::test]
async fn no_customer_is_reconciled_by_two_replicas() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let replicas = Replicas(cluster.clone());
    let outcome = disturbed(&cluster, &replicas).await;
    // Restored in any case.
    replicas.divide(1, 2).await?;
    let mended = replicas.undivided().await;
    outcome.and(mended)
}

async fn disturbed(cluster: &Cluster, replicas: &Replicas) -> Result<()> {
    let mark = Audit::mark()?;
    replicas.divide(PARTITIONS, 1).await?;
    replicas.share("one replica has all partitions", &[3]).await?;
    let load = Load::start(cluster).await?;
    load.all_are_reconciled().await?;

    cluster.scale(CONTROLLER, 3).await?;
    replicas.share("scaled to three replicas with one partition each", &[1, 1, 1]).await?;
    load.all_are_reconciled().await?;

    for round in 0..2 {
        let pod = replicas.holder_of(round).await?;
        partitions::signal(&pod, "KILL").await?;
        println!("killed the process of {pod}; its container restarts");
        load.all_are_reconciled().await?;
    }
    replicas.share("one partition each again", &[1, 1, 1]).await?;

    let pod = replicas.holder_of(2).await?;
    replicas.kill_pod(&pod).await?;
    println!("deleted pod {pod}; it is replaced");
    replicas.share_without(&pod, "one partition each again", &[1, 1, 1]).await?;
    load.all_are_reconciled().await?;

    // It continues in the middle of a reconcile, while another replica holds its partition.
    let pod = replicas.holder_of(0).await?;
    partitions::signal(&pod, "STOP").await?;
    let stopped = Instant::now();
    let taken = replicas.taken_from(&pod, 0).await;
    println!("stopped {pod}; its partition was taken over after {:.1?}", stopped.elapsed());
    // The new holder reconciles by then.
    tokio::time::sleep(Duration::from_secs(4)).await;
    partitions::signal(&pod, "CONT").await?;
    taken?;
    load.all_are_reconciled().await?;
    replicas.share("one partition each again", &[1, 1, 1]).await?;

    cluster.scale(CONTROLLER, 2).await?;
    replicas.share("scaled to two", &[1, 2]).await?;
    load.all_are_reconciled().await?;

    let changes = load.stop().await?;
    let (acts, unnamed) = fencing::acts(&mark, CONTROLLER)?;
    let verdict = fencing::check(&acts, |customer| ahoi_reconcile::partition_of(customer, PARTITIONS));
    println!(
        "{changes} changes of {} customers; {} writes by {} pods, {unnamed} more that name no customer; partitions changed their holder {} times",
        load::CUSTOMERS,
        verdict.writes,
        verdict.by_pod.len(),
        verdict.handovers,
    );
    verdict.violations.iter().take(10).for_each(|violation| println!("{violation}"));
    ensure!(verdict.violations.is_empty(), "{} writes to customers of another replica", verdict.violations.len());
    ensure!(verdict.writes > 500 && verdict.by_pod.len() >= 4 && verdict.handovers >= 8, "too few writes for a result");
    // With the customers in wrong partitions, the same log has many violations: the check works.
    let shifted =
        fencing::check(&acts, |customer| (ahoi_reconcile::partition_of(customer, PARTITIONS) + 1) % PARTITIONS);
    println!("with every customer in a wrong partition: {} violations", shifted.violations.len());
    ensure!(shifted.violations.len() > verdict.writes / 10, "the check does not distinguish replicas");
    load::remove(cluster).await.context("deleting the customers")
}
