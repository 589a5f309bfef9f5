//! The floor: exactly the writes that customers need, sent by a client that does nothing else. Those of one customer go one
//! after the other, so a few customers alone do not fill the API server: the floor means something for many.

use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::{Context as _, Result};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use kube::Client;
use serde::Deserialize;

use super::converge::FAN_OUT;
use super::{convergence, latencies, of_the_control_plane};
use crate::accounts;
use crate::bench::{Bench, names};
use crate::recorded::{How, Recorded, Step};
use crate::usage::sum;

/// The plot that compares everybody.
pub const PLOT: &str = "the same fan-out";

/// Makes the profile's number of customers with each number of requests in flight; the best is the floor.
pub async fn run(bench: &mut Bench, recorded: &Recorded) -> Result<()> {
    // It would find these customers its own.
    bench.without_suite().await?;
    let n = bench.profile.compare;
    let scenario = format!("the floor: the writes of {n} customers, {FAN_OUT}, by a bare client");
    println!("{scenario}");
    bench.run.value(&scenario, "writes per customer", "requests", recorded.steps.len() as f64);
    let client = accounts::client(bench, "floor").await?;
    let mut best: Option<(f64, Vec<(f64, f64)>)> = None;
    for &at_once in bench.profile.floor {
        let set = format!("floor{at_once}");
        let start = bench.start()?;
        let made = make(&client, recorded, &set, n, at_once).await?;
        let ended: BTreeMap<String, Instant> = made.iter().map(|(name, _, end)| (name.clone(), *end)).collect();
        let begun: BTreeMap<String, Instant> = made.iter().map(|(name, begun, _)| (name.clone(), *begun)).collect();
        let last = ended.values().max().context("nobody")?.duration_since(start.at).as_secs_f64();
        let cpu = sum(&start.cpu(&bench.usage()?), of_the_control_plane) * 1000.0 / n as f64;
        let rate = n as f64 / last;
        bench.run.value(&scenario, &format!("rate, {at_once} in flight"), "customers/s", rate);
        bench.run.value(&scenario, &format!("CPU of API server and etcd per customer, {at_once} in flight"), "ms", cpu);
        if best.as_ref().is_none_or(|(fastest, _)| rate > *fastest) {
            best = Some((rate, convergence(start.at, &ended)));
        }
        bench.latency(&scenario, &format!("first write → last write, {at_once} in flight"), latencies(&begun, &ended));
        bench.clear(&set).await?;
    }
    let (rate, points) = best.context("the profile has no floor")?;
    bench.run.value(&scenario, "rate, the best", "customers/s", rate);
    bench.run.curve(PLOT, "floor", points);
    let ours = bench.run.find(&format!("{n} customers at once, {FAN_OUT}"), "rate");
    if let Some(ours) = ours {
        bench.run.value(&scenario, "rate of the suite as a share of the floor", "", ours / rate);
    }
    Ok(())
}

/// Makes `n` customers; when each was begun and ended.
async fn make(
    client: &Client,
    recorded: &Recorded,
    set: &str,
    n: usize,
    at_once: usize,
) -> Result<Vec<(String, Instant, Instant)>> {
    let customers = names(set, n).into_iter().map(|name| async move {
        let begun = Instant::now();
        let mut uids: BTreeMap<usize, String> = BTreeMap::new();
        for (number, step) in recorded.steps.iter().enumerate() {
            if let Some(uid) =
                send(client, step, &name, &uids).await.with_context(|| format!("{} for {name}", step.path))?
            {
                uids.insert(number, uid);
            }
        }
        anyhow::Ok((name, begun, Instant::now()))
    });
    stream::iter(customers).buffer_unordered(at_once).try_collect().await
}

/// Sends one write; the uid of what it made, if anybody needs it.
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
