//! Many customers at once, until all are Ready.

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::labels::{FAN_OUT, FAN_OUT_PLOT, MEMORY};
use super::{QUIET, convergence, is_of_ahoi, latencies};
use crate::bench::{Bench, STEP_TIMEOUT, names};

/// Creates `n` customers of `set` at once. Returns their names.
pub async fn run(bench: &mut Bench, kind: &str, set: &str, n: usize, spec: &Value) -> Result<Vec<String>> {
    beside(bench, 0, kind, set, n, spec).await
}

/// Creates `n` customers at once in addition to existing ones. Returns their names.
pub async fn beside(
    bench: &mut Bench,
    others: usize,
    kind: &str,
    set: &str,
    n: usize,
    spec: &Value,
) -> Result<Vec<String>> {
    let beside = if others > 0 { format!(" beside {others}") } else { String::new() };
    let scenario = format!("{n} customers at once{beside}, {kind}");
    println!("{scenario}");
    let names = names(set, n);
    let mut ready = bench.watch_ready(set).await?;
    let start = bench.start()?;
    let sent = bench.make(&names, spec).await?;
    let ready = ready.all(n, "customers Ready", STEP_TIMEOUT).await?;
    let last = ready.values().max().context("no customer")?.saturating_duration_since(start.at).as_secs_f64();
    // Writes after Ready count as well.
    bench.quiet(ahoi_e2e::SYSTEM, QUIET).await?;
    let now = bench.usage()?;

    bench.run.value(&scenario, "until the last is Ready", "s", last);
    bench.run.value(&scenario, "rate", "customers/s", n as f64 / last);
    bench.latency(&scenario, "created → Ready", latencies(&sent, &ready));
    bench.run.curve(&format!("convergence, {kind}"), &format!("{n} customers"), convergence(start.at, &ready));
    if n == bench.profile.compare && kind == FAN_OUT {
        bench.run.curve(FAN_OUT_PLOT, "Ahoi", convergence(start.at, &ready));
    }
    bench.requests(&scenario, &start.requests()?, n);
    bench.used(&scenario, &start, &now, n);
    let grown = (now.memory(is_of_ahoi) - bench.empty.memory(is_of_ahoi)) / (others + n) as f64 / 1e3;
    bench.run.value(&scenario, MEMORY, "kB", grown);
    Ok(names)
}
