//! The cost of an agent with many pools: it watches the pools of all shards.

use std::process::Command;
use std::time::{Duration, Instant};

use ahoi_api::{ConnectionPool, NamespacedRef};
use ahoi_pgbouncer::config::{Known, Settings, plan, render};
use ahoi_pgbouncer::pool::{Pool, forget_what_is_not_needed};
use ahoi_reconcile::Cache;
use ahoi_reconcile::testing::cache;
use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::fixture::{milliseconds, poolers, route};
use super::process::resident;

/// Runs each measurement in a process of its own, so that none has the memory of the previous one.
pub fn compare() -> Result<()> {
    println!(
        "| pools in the cluster | of them in the shard | memory of the cache | snapshot, ms | plan, ms | render, ms |"
    );
    println!("|---|---|---|---|---|---|");
    for (pools, shards) in [(2_000, 1), (10_000, 5)] {
        let measured =
            Command::new(std::env::current_exe()?).args([pools, shards].map(|n: i32| n.to_string())).output()?;
        ensure!(measured.status.success(), "{}", String::from_utf8_lossy(&measured.stderr));
        print!("{}", String::from_utf8_lossy(&measured.stdout));
    }
    Ok(())
}

/// Fills the cache of an agent with pools of so many shards, and reconciles as an agent of the first shard does.
pub fn measure(pools: i32, shards: i32) -> Result<()> {
    // The memory of code and buffers does not belong to the pools.
    drop(fill(100, shards)?);
    let before = resident(std::process::id())?;
    let cache = fill(pools, shards)?;
    let memory = resident(std::process::id())?.saturating_sub(before);
    let fleet = NamespacedRef { namespace: "ahoi-system".into(), name: "global".into() };
    let known = Known { poolers: poolers(), ..Known::default() };

    let mut best = [Duration::MAX; 3];
    let mut routes = 0;
    for _ in 0..5 {
        let begun = Instant::now();
        let snapshot: Vec<Pool> =
            cache.all().iter().map(|pool| Pool::of(pool, &fleet, 0)).filter(|pool| pool.here).collect();
        let listed = begun.elapsed();
        let plan = plan(&snapshot, &known).ok().context("an implausible plan")?;
        let planned = begun.elapsed();
        let files = render(plan.routes.values(), &known.poolers, &Settings::default());
        let rendered = begun.elapsed();
        routes = plan.routes.len();
        ensure!(files.databases.len() == routes + 2, "{} databases for {routes} routes", files.databases.len());
        for (best, now) in best.iter_mut().zip([listed, planned - listed, rendered - planned]) {
            *best = now.min(*best);
        }
    }
    println!(
        "| {pools} | {routes} | {:.1} MiB | {} | {} | {} |",
        memory as f64 / 1024.0,
        milliseconds(best[0]),
        milliseconds(best[1]),
        milliseconds(best[2])
    );
    Ok(())
}

fn fill(pools: i32, shards: i32) -> Result<Cache<ConnectionPool>> {
    let pools = (0..pools).map(|number| {
        let mut pool = pool(number, number % shards)?;
        pool.metadata.managed_fields = None;
        forget_what_is_not_needed(&mut pool);
        Ok(pool)
    });
    Ok(cache(pools.collect::<Result<Vec<_>>>()?))
}

/// A pool as the API server returns it.
fn pool(number: i32, shard: i32) -> Result<ConnectionPool> {
    let (name, time) = (format!("customer-number-{number}"), "2026-01-01T00:00:00Z");
    let condition = |type_: &str| {
        json!({"type": type_, "status": "True", "reason": "Ready", "observedGeneration": 1, "lastTransitionTime": time,
               "message": "every process of the fleet serves it"})
    };
    let pool = json!({
        "apiVersion": "internal.example.com/v1", "kind": "ConnectionPool",
        "metadata": {
            "name": name, "namespace": format!("customer-{name}"), "uid": format!("00000000-0000-0000-0000-{number:012}"),
            "resourceVersion": (100_000 + number).to_string(), "generation": 1, "creationTimestamp": time,
            "finalizers": ["internal.example.com/connectionpool"],
            "labels": {"internal.example.com/customer": name, "app.kubernetes.io/managed-by": "ahoi-customer"},
            "ownerReferences": [{"apiVersion": "internal.example.com/v1", "kind": "Customer", "name": name, "controller": true,
                "blockOwnerDeletion": true, "uid": format!("00000000-0000-0000-0001-{number:012}")}],
        },
        "spec": {
            "databaseRef": {"name": name}, "pgBouncerRef": {"namespace": "ahoi-system", "name": "global"},
            "maxClientConnections": 100, "state": "Active",
        },
        "status": {
            "observedGeneration": 1, "route": route(&format!("c_{number:016}"), 5432),
            "place": {"fleet": {"namespace": "ahoi-system", "name": "global"}, "shard": shard},
            "binding": {"name": format!("{name}-pool"), "version": "0123456789abcdef"},
            "conditions": [condition("Ready")],
        },
    });
    serde_json::from_value(pool).context("the benchmark's own pool")
}
