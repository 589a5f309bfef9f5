//! The floor: only the necessary writes of customers, sent by a bare client. The writes of a customer are serial, so the floor is
//! meaningful only for many customers.
//!
//! A Scheduler cannot be Ready before Kubernetes has observed its Deployment, so the floor waits for that as well. The cost of the
//! writes without this wait is measured separately.

use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::{Context as _, Result};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::api::apps::v1::Deployment;
use kube::{Client, ResourceExt as _};
use serde::Deserialize;
use tokio::sync::Semaphore;

use super::labels::{FAN_OUT, FAN_OUT_PLOT};
use super::{convergence, is_control_plane, latencies};
use crate::accounts;
use crate::bench::{Bench, STEP_TIMEOUT, names};
use crate::recorded::{How, Recorded, Step};
use crate::usage::sum;
use crate::watch::{Change, Seen};

/// Row of the report.
pub const SHARE: &str = "rate of Ahoi as a share of the floor";
/// Row of the report.
pub const SHARE_OF_BARE: &str = "rate of Ahoi as a share of writes that wait for nothing";

/// Creates the customers of the profile with each number of requests in flight. The best rate is the floor. `ours` is the rate
/// of Ahoi.
pub async fn run(bench: &mut Bench, recorded: &Recorded, ours: f64) -> Result<()> {
    let n = bench.profile.compare;
    let scenario = format!("the floor: the writes of {n} customers, {FAN_OUT}, by a bare client");
    println!("{scenario}");
    bench.run.value(&scenario, "writes per customer", "requests", recorded.steps.len() as f64);
    let client = accounts::client(bench, "floor").await?;
    let mut best: Option<(f64, Vec<(f64, f64)>)> = None;
    for &at_once in bench.profile.floor {
        let made = measure(bench, &client, recorded, &scenario, at_once, true).await?;
        if best.as_ref().is_none_or(|(fastest, _)| made.0 > *fastest) {
            best = Some(made);
        }
    }
    let (rate, points) = best.context("the profile has no floor")?;
    bench.run.value(&scenario, "best rate", "customers/s", rate);
    bench.run.curve(FAN_OUT_PLOT, "floor", points);
    bench.run.value(&scenario, SHARE, "", ours / rate);
    if let Some(&at_once) = bench.profile.floor.last() {
        let (rate, _) = measure(bench, &client, recorded, &scenario, at_once, false).await?;
        bench.run.value(&scenario, SHARE_OF_BARE, "", ours / rate);
    }
    Ok(())
}

/// Creates the customers once. Returns the rate and its curve.
async fn measure(
    bench: &mut Bench,
    client: &Client,
    recorded: &Recorded,
    scenario: &str,
    at_once: usize,
    awaiting: bool,
) -> Result<(f64, Vec<(f64, f64)>)> {
    let n = bench.profile.compare;
    let variant = format!("{at_once} in flight{}", if awaiting { "" } else { ", without waiting" });
    let set = format!("floor{at_once}{}", if awaiting { "" } else { "bare" });
    let observed = if awaiting { Some(deployments_observed(bench, &set).await?) } else { None };
    let start = bench.start()?;
    let made = make(client, recorded, &set, n, at_once, observed.as_ref()).await?;
    let cpu = sum(&start.cpu(&bench.usage()?), is_control_plane) * 1000.0 / n as f64;
    let begun: BTreeMap<String, Instant> = made.iter().map(|(name, begun, _)| (name.clone(), *begun)).collect();
    let ended: BTreeMap<String, Instant> = made.into_iter().map(|(name, _, end)| (name, end)).collect();
    let last = ended.values().max().context("no customer")?.duration_since(start.at).as_secs_f64();
    let rate = n as f64 / last;
    bench.run.value(scenario, &format!("rate, {variant}"), "customers/s", rate);
    bench.run.value(scenario, &format!("CPU of API server and etcd per customer, {variant}"), "ms", cpu);
    bench.latency(scenario, &format!("first write → last write, {variant}"), latencies(&begun, &ended));
    bench.clear(&set).await?;
    Ok((rate, convergence(start.at, &ended)))
}

/// Watches for the Deployments of `set` that Kubernetes has observed, by namespace. Each customer has at most one.
async fn deployments_observed(bench: &Bench, set: &str) -> Result<Seen> {
    let prefix = ahoi_api::namespace_of(&format!("{set}-"));
    let notable = move |change: Change<'_, Deployment>| match change {
        Change::Is(deployment) => {
            let seen = deployment.status.as_ref().and_then(|status| status.observed_generation);
            let theirs = deployment.namespace().filter(|namespace| namespace.starts_with(&prefix));
            theirs.filter(|_| seen >= deployment.metadata.generation)
        }
        Change::Gone(_) => None,
    };
    Seen::by(bench.cluster.all::<Deployment>(), notable).await
}

/// Creates `n` customers. Returns when each started and ended. While one waits for its Deployment, the next one starts.
async fn make(
    client: &Client,
    recorded: &Recorded,
    set: &str,
    n: usize,
    at_once: usize,
    observed: Option<&Seen>,
) -> Result<Vec<(String, Instant, Instant)>> {
    let (objects, statuses): (Vec<_>, Vec<_>) =
        recorded.steps.iter().enumerate().partition(|(_, step)| step.how != How::Status);
    let observed = observed.filter(|_| objects.iter().any(|(_, step)| step.path.contains("/deployments?")));
    let slots = Semaphore::new(at_once);
    let (objects, statuses, slots) = (&objects, &statuses, &slots);
    let customers = names(set, n).into_iter().map(|name| async move {
        let begun = Instant::now();
        let mut uids = BTreeMap::new();
        send_all(client, slots, objects, &name, &mut uids).await?;
        anyhow::Ok((name, begun, uids))
    });
    let made = stream::iter(customers).buffer_unordered(at_once);
    let completed = made.map_ok(|(name, begun, mut uids)| async move {
        if let Some(deployments) = observed {
            deployments.one(&ahoi_api::namespace_of(&name), STEP_TIMEOUT).await?;
        }
        send_all(client, slots, statuses, &name, &mut uids).await?;
        anyhow::Ok((name, begun, Instant::now()))
    });
    completed.try_buffer_unordered(n).try_collect().await
}

/// Sends the writes of a customer serially, and records the uids that later writes need.
async fn send_all(
    client: &Client,
    slots: &Semaphore,
    steps: &[(usize, &Step)],
    name: &str,
    uids: &mut BTreeMap<usize, String>,
) -> Result<()> {
    for (number, step) in steps {
        let _slot = slots.acquire().await?;
        let sent = send(client, step, name, uids).await;
        if let Some(uid) = sent.with_context(|| format!("{} for {name}", step.path))? {
            uids.insert(*number, uid);
        }
    }
    Ok(())
}

/// Sends a write. Returns the uid of the object, if a later write needs it.
async fn send(client: &Client, step: &Step, name: &str, uids: &BTreeMap<usize, String>) -> Result<Option<String>> {
    let fill = |text: &str| {
        let mut text = text.replace(crate::recorded::NAME, name);
        for (number, uid) in uids {
            text = text.replace(&format!("@UID{number}@"), uid);
        }
        text
    };
    let (method, kind) = match step.how {
        How::Create => ("POST", "application/json"),
        How::Apply => ("PATCH", "application/apply-patch+yaml"),
        How::Status => ("PATCH", "application/merge-patch+json"),
    };
    let request = http::Request::builder().method(method).uri(fill(&step.path)).header("content-type", kind);
    let answer = client.request_text(request.body(fill(&step.body).into_bytes())?).await?;
    Ok(if step.referenced { Some(serde_json::from_str::<Made>(&answer)?.metadata.uid) } else { None })
}

#[derive(Deserialize)]
struct Made {
    metadata: MadeMeta,
}

#[derive(Deserialize)]
struct MadeMeta {
    uid: String,
}
