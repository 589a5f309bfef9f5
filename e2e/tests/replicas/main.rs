//! A controller in three partitions, its replicas scaled, killed, stopped for a while and replaced, while every customer is changed
//! all the time: nothing is lost, and no replica writes to a customer that is another's at that moment.

mod load;
mod partitions;

use std::time::{Duration, Instant};

use ahoi_e2e::audit::Audit;
use ahoi_e2e::{Cluster, fencing};
use anyhow::{Context as _, Result, ensure};

use crate::load::Load;
use crate::partitions::{CONTROLLER, PARTITIONS, Replicas};

#[tokio::test]
async fn no_customer_is_in_two_places_at_once() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let replicas = Replicas(cluster.clone());
    let outcome = told(&cluster, &replicas).await;
    // As it was, whatever came of it.
    replicas.divide(1, 2).await?;
    let mended = replicas.undivided().await;
    outcome.and(mended)
}

async fn told(cluster: &Cluster, replicas: &Replicas) -> Result<()> {
    let mark = Audit::mark()?;
    replicas.divide(PARTITIONS, 1).await?;
    replicas.share("one has all of them", &[3]).await?;
    let load = Load::start(cluster).await?;
    load.everybody_is_served().await?;

    cluster.scale(CONTROLLER, 3).await?;
    replicas.share("scaled to three, each has one", &[1, 1, 1]).await?;
    load.everybody_is_served().await?;

    for round in 0..2 {
        let pod = replicas.holder_of(round).await?;
        partitions::signal(&pod, "KILL").await?;
        println!("killed the process of {pod}; its container is started again");
        load.everybody_is_served().await?;
    }
    replicas.share("each has one again", &[1, 1, 1]).await?;

    let pod = replicas.holder_of(2).await?;
    replicas.kill_pod(&pod).await?;
    println!("killed the pod {pod}; another takes its place");
    replicas.share_without(&pod, "each has one again", &[1, 1, 1]).await?;
    load.everybody_is_served().await?;

    // It comes back in the middle of whatever it was doing, and others have its partition.
    let pod = replicas.holder_of(0).await?;
    partitions::signal(&pod, "STOP").await?;
    let stopped = Instant::now();
    let taken = replicas.taken_from(&pod, 0).await;
    println!("stopped {pod}; its partition was taken after {:.1?}", stopped.elapsed());
    // The new holder is at work by then.
    tokio::time::sleep(Duration::from_secs(4)).await;
    partitions::signal(&pod, "CONT").await?;
    taken?;
    load.everybody_is_served().await?;
    replicas.share("each has one again", &[1, 1, 1]).await?;

    cluster.scale(CONTROLLER, 2).await?;
    replicas.share("scaled to two", &[1, 2]).await?;
    load.everybody_is_served().await?;

    let changes = load.stop().await?;
    let (acts, unnamed) = fencing::acts(&mark, CONTROLLER)?;
    let verdict = fencing::check(&acts, |customer| ahoi_reconcile::partition_of(customer, PARTITIONS));
    println!(
        "{changes} changes of {} customers; {} writes by {} pods, {unnamed} more that name no customer; partitions changed hands {} times",
        load::CUSTOMERS,
        verdict.writes,
        verdict.by_pod.len(),
        verdict.hands,
    );
    verdict.violations.iter().take(10).for_each(|violation| println!("{violation}"));
    ensure!(verdict.violations.is_empty(), "{} writes to customers of another replica", verdict.violations.len());
    ensure!(verdict.writes > 500 && verdict.by_pod.len() >= 4 && verdict.hands >= 8, "too little happened to tell");
    // Were the customers on other partitions than they are, the same log would be full of violations: it can tell.
    let shifted =
        fencing::check(&acts, |customer| (ahoi_reconcile::partition_of(customer, PARTITIONS) + 1) % PARTITIONS);
    println!("with every customer on another partition than its own: {} violations", shifted.violations.len());
    ensure!(shifted.violations.len() > verdict.writes / 10, "the check cannot tell one replica from another");
    load::remove(cluster).await.context("removing the customers")
}
