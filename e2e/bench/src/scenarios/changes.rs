//! Changes of existing customers: toggles, a Plan, and manual changes.

use std::collections::{BTreeMap, HashSet};
use std::time::{Duration, Instant};

use ahoi_api::{Plan, RunPolicy, Scheduler, namespace_of};
use ahoi_e2e::SYSTEM;
use anyhow::{Context as _, Result};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::api::batch::v1::CronJob;
use k8s_openapi::api::core::v1::{ConfigMap, ResourceQuota};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::ResourceExt as _;
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::json;
use tokio::sync::Mutex;

use super::steady::paced;
use super::{QUIET, converge, labels, latencies, rest};
use crate::bench::{AT_ONCE, Bench, PLAN, STEP_TIMEOUT, fan_out_spec};
use crate::stats::{median, millis, quantile};
use crate::watch::{Change, Seen};

/// Row of the report.
pub const TOGGLE_MULTIPLE: &str = "toggle → child applied, p99, as a multiple of one apply's p99";
/// Namespace of the objects of the benchmark.
const NAMESPACE: &str = "default";

/// Returns the customer of an object, from its label.
fn customer_of<K: kube::Resource>(object: &K) -> Option<String> {
    object.labels().get(ahoi_api::CUSTOMER_LABEL).cloned()
}

/// Creates the customers of the profile, changes them, and measures idle time.
pub async fn run(bench: &mut Bench) -> Result<()> {
    bench.start_controllers().await?;
    let (set, n) = ("standing", bench.profile.standing);
    let customers = converge::run(bench, labels::FAN_OUT, set, n, &fan_out_spec()).await?;
    toggle(bench, &customers).await?;
    plan(bench, &customers).await?;
    repair(bench, &customers).await?;
    rest::restart(bench, n).await?;
    rest::idle(bench, n).await?;
    bench.finish(set).await
}

/// Suspends the customers at the rate of the profile, and measures the time until the child and the last object are updated.
async fn toggle(bench: &mut Bench, customers: &[String]) -> Result<()> {
    let n = customers.len();
    let scenario = format!("one toggle on each of {n} customers");
    println!("{scenario}");
    let child = |change: Change<'_, Scheduler>| match change {
        Change::Is(child) if child.spec.run_policy == RunPolicy::Suspended => customer_of(child),
        _ => None,
    };
    let end = |change: Change<'_, CronJob>| match change {
        Change::Is(job) if job.spec.as_ref().is_some_and(|spec| spec.suspend == Some(true)) => customer_of(job),
        _ => None,
    };
    let mut children = Seen::by(bench.cluster.all::<Scheduler>(), child).await?;
    let mut ends = Seen::by(bench.cluster.all::<CronJob>(), end).await?;

    // One apply with each toggle, under the same load, for comparison.
    let applied = std::sync::Arc::new(Mutex::new(Vec::<Duration>::new()));
    let start = bench.start()?;
    let toggled = paced(bench.profile.rate, customers, |name| {
        let (api, cluster, applied) = (bench.cluster.customers(), bench.cluster.clone(), applied.clone());
        async move {
            let patch = Patch::Merge(json!({"spec": {"runPolicy": "Suspended"}}));
            let params = PatchParams::default();
            let beside = async {
                let maps = cluster.of::<ConfigMap>(NAMESPACE);
                let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "ahoi-bench"}, "data": {"last": name}});
                let begun = Instant::now();
                maps.patch("ahoi-bench", &PatchParams::apply("ahoi-bench").force(), &Patch::Apply(&map)).await?;
                applied.lock().await.push(begun.elapsed());
                anyhow::Ok(())
            };
            let toggle = async { anyhow::Ok(api.patch(&name, &params, &patch).await.map(drop)?) };
            tokio::try_join!(toggle, beside).map(drop)
        }
    })
    .await?;
    let children = children.all(n, "children suspended", STEP_TIMEOUT).await?;
    let ends = ends.all(n, "jobs suspended", STEP_TIMEOUT).await?;
    bench.quiet(SYSTEM, QUIET).await?;

    let applied = std::mem::take(&mut *applied.lock().await);
    let apply = quantile(&millis(applied.iter().copied()), 0.99);
    let times = latencies(&toggled, &children);
    let tail = quantile(&millis(times.iter().copied()), 0.99);
    bench.latency(&scenario, "one concurrent apply", applied);
    bench.latency(&scenario, "toggle → child applied", times);
    bench.latency(&scenario, "toggle → end of the chain applied", latencies(&toggled, &ends));
    bench.run.value(&scenario, TOGGLE_MULTIPLE, "×", tail / apply);
    bench.requests(&scenario, &start.requests()?, n);
    Ok(())
}

/// Changes the Plan of all customers, and measures the time until each quota is updated.
async fn plan(bench: &mut Bench, customers: &[String]) -> Result<()> {
    let n = customers.len();
    let scenario = format!("a Plan change for {n} customers");
    println!("{scenario}");
    let reached = |change: Change<'_, ResourceQuota>| match change {
        Change::Is(quota) => {
            let pods = quota.spec.as_ref()?.hard.as_ref()?.get("pods")?;
            customer_of(quota).filter(|_| pods.0 == "51")
        }
        Change::Gone(_) => None,
    };
    let mut reached = Seen::by(bench.cluster.all::<ResourceQuota>(), reached).await?;
    let start = bench.start()?;
    let change = json!({"guardrails": {"quota": {"pods": "51"}}});
    bench.cluster.patch_spec(&bench.cluster.all::<Plan>(), PLAN, change).await?;
    let reached = reached.all(n, "quotas changed", STEP_TIMEOUT).await?;
    bench.quiet(SYSTEM, QUIET).await?;

    let times: Vec<Duration> = reached.values().map(|at| at.saturating_duration_since(start.at)).collect();
    let last = times.iter().max().context("none")?.as_secs_f64();
    bench.run.value(&scenario, "until the last is updated", "s", last);
    bench.run.value(&scenario, "rate", "customers/s", n as f64 / last);
    bench.requests(&scenario, &start.requests()?, n);
    let now = bench.usage()?;
    bench.used(&scenario, &start, &now, n);
    Ok(())
}

/// Deletes or changes children of 1 % of the customers, and measures the time until they are restored.
async fn repair(bench: &mut Bench, customers: &[String]) -> Result<()> {
    let hurt: Vec<String> = customers.iter().step_by(100).cloned().collect();
    let scenario =
        format!("a policy deleted, a quota and a scheduler changed manually for 1 % of {} customers", customers.len());
    println!("{scenario}");
    let of_them: HashSet<String> = hurt.iter().cloned().collect();
    // Uids distinguish the recreated policy from the deleted one.
    let policies = bench.cluster.all::<NetworkPolicy>().list(&kube::api::ListParams::default()).await?;
    let old: HashSet<String> = policies.iter().filter_map(|policy| policy.uid()).collect();
    let (theirs, altered) = (of_them.clone(), std::sync::Mutex::new(HashSet::new()));
    let again = move |change: Change<'_, NetworkPolicy>| match change {
        Change::Is(policy) if policy.name_any() == "default-deny" && !old.contains(&policy.uid()?) => {
            customer_of(policy).filter(|name| theirs.contains(name))
        }
        _ => None,
    };
    let right = move |change: Change<'_, ResourceQuota>| match change {
        Change::Is(quota) => {
            let (name, pods) = (customer_of(quota)?, &quota.spec.as_ref()?.hard.as_ref()?.get("pods")?.0);
            let mut altered = altered.lock().ok()?;
            if pods == "7" {
                altered.insert(name);
                return None;
            }
            altered.contains(&name).then_some(name)
        }
        Change::Gone(_) => None,
    };
    let changed = std::sync::Mutex::new(HashSet::new());
    let wanted = move |change: Change<'_, Scheduler>| match change {
        Change::Is(scheduler) => {
            let (name, mut changed) = (customer_of(scheduler)?, changed.lock().ok()?);
            if scheduler.spec.image == "altered" {
                changed.insert(name);
                return None;
            }
            changed.contains(&name).then_some(name)
        }
        Change::Gone(_) => None,
    };
    let mut again = Seen::by(bench.cluster.all::<NetworkPolicy>(), again).await?;
    let mut right = Seen::by(bench.cluster.all::<ResourceQuota>(), right).await?;
    let mut wanted = Seen::by(bench.cluster.all::<Scheduler>(), wanted).await?;

    let start = bench.start()?;
    let hands = stream::iter(hurt.iter().map(|name| {
        let (cluster, name) = (bench.cluster.clone(), name.clone());
        async move {
            let namespace = namespace_of(&name);
            let begun = Instant::now();
            cluster.of::<NetworkPolicy>(&namespace).delete("default-deny", &DeleteParams::default()).await?;
            let altered = json!({"hard": {"pods": "7"}});
            cluster.patch_spec(&cluster.of::<ResourceQuota>(&namespace), "customer", altered).await?;
            cluster.patch_spec(&cluster.of::<Scheduler>(&namespace), &name, json!({"image": "altered"})).await?;
            anyhow::Ok((name, begun))
        }
    }));
    let begun: BTreeMap<String, Instant> = hands.buffer_unordered(AT_ONCE).try_collect().await?;
    for (what, seen) in [
        ("deleted policy → recreated", &mut again),
        ("changed quota → reverted", &mut right),
        ("changed scheduler → reverted", &mut wanted),
    ] {
        let ended = seen.all(hurt.len(), what, STEP_TIMEOUT).await?;
        let times = millis(latencies(&begun, &ended));
        bench.run.value(&scenario, &format!("{what}, median"), "ms", median(&times));
        bench.run.value(&scenario, &format!("{what}, longest"), "ms", quantile(&times, 1.0));
    }
    bench.quiet(SYSTEM, QUIET).await?;
    bench.requests(&scenario, &start.requests()?, hurt.len());
    Ok(())
}
