//! Shards of a PgBouncer fleet: each has its own address, and pools stay in their shard when the fleet grows.

use std::collections::BTreeMap;

use ahoi_api::{ConnectionPool, Customer, PgBouncer, PgBouncerSpec, ShardRoom, namespace_of};
use ahoi_e2e::customers::READY;
use ahoi_e2e::refusal::{BY_POOLER, refused};
use ahoi_e2e::{Cluster, SYSTEM};
use ahoi_reconcile::{conditions, is_ready};
use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::Service;
use kube::Api;
use kube::api::PostParams;
use serde_json::json;

const FLEET: &str = "narrow";
const FIRST: [&str; 4] = ["shards-a", "shards-b", "shards-c", "shards-d"];
const LATE: &str = "shards-late";

async fn create_customer(cluster: &Cluster, name: &str) -> Result<Customer> {
    let pool = json!({"pgBouncerRef": {"namespace": SYSTEM, "name": FLEET}});
    cluster.create_customer(name, json!({"database": {"enabled": true}, "connectionPool": pool})).await
}

fn shard_name(shard: i32) -> String {
    if shard == 0 { FLEET.to_owned() } else { format!("{FLEET}-s{shard}") }
}

async fn shard_of(cluster: &Cluster, customer: &str) -> Result<i32> {
    let pool = cluster.of::<ConnectionPool>(&namespace_of(customer)).get(customer).await?;
    let place = pool.status.and_then(|status| status.place).context("the pool has no shard")?;
    ensure!(place.fleet.name == FLEET, "{customer} is in {place:?}");
    Ok(place.shard)
}

/// Returns the shard of each customer. Each customer is served by its own shard and refused by the others.
async fn reach(cluster: &Cluster, customers: &[&str]) -> Result<BTreeMap<String, i32>> {
    let mut shards = BTreeMap::new();
    for name in customers {
        let shard = shard_of(cluster, name).await?;
        let pooled = cluster.pooled(name).await?;
        let host = format!("{}.{SYSTEM}.svc", shard_name(shard));
        ensure!(
            pooled.get("host") == host,
            "{name} is in shard {shard}, and its Secret points to {}",
            pooled.get("host")
        );
        let client = pooled.connect().await.with_context(|| format!("{name} through shard {shard}"))?;
        client.query_one("SELECT 1", &[]).await?;
        shards.insert((*name).to_owned(), shard);
    }
    for (name, shard) in &shards {
        let Some(other) = shards.values().find(|other| *other != shard) else { continue };
        let address = cluster.address(SYSTEM, &shard_name(*other)).await?;
        let elsewhere = cluster.pooled(name).await?.at(&address).connect().await;
        refused(
            elsewhere,
            BY_POOLER,
            "SASL authentication failed",
            &format!("{name} of shard {shard} at shard {other}"),
        )?;
    }
    Ok(shards)
}

async fn fleet_until(
    cluster: &Cluster,
    fleets: &Api<PgBouncer>,
    what: &str,
    holds: impl Fn(&PgBouncer) -> bool,
) -> Result<PgBouncer> {
    let found = cluster.until(fleets, FLEET, what, 120, |fleet: Option<&PgBouncer>| fleet.is_some_and(&holds)).await?;
    found.context("the PgBouncer was deleted")
}

fn rooms(fleet: &PgBouncer) -> Vec<ShardRoom> {
    fleet.status.iter().flat_map(|status| &status.shards).map(|shard| shard.room).collect()
}

fn is_stalled(conditions: &[k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition], reason: &str) -> bool {
    conditions::find(conditions, conditions::STALLED).is_some_and(|stalled| stalled.reason == reason)
}

#[tokio::test]
async fn a_fleet_grows_by_shards_without_moving_a_pool() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let fleets = cluster.of::<PgBouncer>(SYSTEM);
    for name in FIRST.into_iter().chain([LATE]) {
        cluster.delete_customer(name).await?;
    }
    cluster.delete(&fleets, FLEET, 60).await?;
    let spec = json!({"replicas": 1, "shards": 2, "maxRoutesPerShard": 2});
    let spec: PgBouncerSpec = serde_json::from_value(spec)?;
    fleets.create(&PostParams::default(), &PgBouncer::new(FLEET, spec)).await?;
    fleet_until(&cluster, &fleets, "Ready", is_ready).await?;

    for name in FIRST {
        create_customer(&cluster, name).await?;
    }
    for name in FIRST {
        cluster.ready(name).await?;
    }
    let before = reach(&cluster, &FIRST).await?;
    let count = |shard| before.values().filter(|other| **other == shard).count();
    ensure!((count(0), count(1)) == (2, 2), "pools are spread unevenly: {before:?}");
    fleet_until(&cluster, &fleets, "both shards are full", |f| rooms(f) == [ShardRoom::Full; 2]).await?;

    // A fifth pool is Stalled until there is a third shard. The others do not notice.
    create_customer(&cluster, LATE).await?;
    let pools = cluster.of::<ConnectionPool>(&namespace_of(LATE));
    let is_stalled_without_capacity = |pool: Option<&ConnectionPool>| {
        pool.and_then(|pool| pool.status.as_ref())
            .is_some_and(|status| is_stalled(&status.conditions, "NoFreeCapacity"))
    };
    cluster.until(&pools, LATE, "NoFreeCapacity", READY, is_stalled_without_capacity).await?;
    cluster.patch_spec(&fleets, FLEET, json!({"shards": 3})).await?;
    cluster.ready(LATE).await?;
    let grown = fleet_until(&cluster, &fleets, "Ready", is_ready).await?;
    ensure!(rooms(&grown) == [ShardRoom::Full, ShardRoom::Full, ShardRoom::Open], "{:?}", rooms(&grown));
    let mut expected = before.clone();
    expected.insert(LATE.to_owned(), 2);
    let all = [&FIRST[..], &[LATE]].concat();
    let after = reach(&cluster, &all).await?;
    ensure!(after == expected, "{after:?} instead of {expected:?}");

    // A shard with pools is not removed.
    cluster.patch_spec(&fleets, FLEET, json!({"shards": 1})).await?;
    let in_use = |fleet: &PgBouncer| {
        fleet.status.as_ref().is_some_and(|status| is_stalled(&status.conditions, "ShardsInUse"))
            && rooms(fleet) == [ShardRoom::Full, ShardRoom::Closing, ShardRoom::Closing]
    };
    fleet_until(&cluster, &fleets, "Stalled", in_use).await?;
    ensure!(reach(&cluster, &all).await? == expected, "a pool was moved");

    // It is removed with its last pool. The other shards stay.
    let leaving: Vec<&String> = expected.iter().filter(|(_, shard)| **shard > 0).map(|(name, _)| name).collect();
    for (n, name) in leaving.iter().enumerate() {
        // Both remedies of the message.
        if n == 0 {
            cluster.change(name, json!({"features": {"connectionPool": {"enabled": false}}})).await?;
        } else {
            cluster.delete_customer(name).await?;
        }
    }
    let alone = |fleet: &PgBouncer| {
        let processes = fleet.status.iter().flat_map(|status| &status.processes);
        is_ready(fleet) && processes.map(|process| process.pod.as_str()).eq(["narrow-0"])
    };
    fleet_until(&cluster, &fleets, "one shard left", alone).await?;
    for shard in [1, 2] {
        let name = shard_name(shard);
        cluster.until_gone(&cluster.of::<StatefulSet>(SYSTEM), &name, 60).await?;
        cluster.until_gone(&cluster.of::<Service>(SYSTEM), &name, 60).await?;
    }
    let stay: Vec<&str> = expected.iter().filter(|(_, shard)| **shard == 0).map(|(name, _)| name.as_str()).collect();
    reach(&cluster, &stay).await?;
    for name in stay.into_iter().chain(leaving.into_iter().take(1).map(String::as_str)) {
        cluster.delete_customer(name).await?;
    }
    cluster.delete(&fleets, FLEET, 60).await
}
