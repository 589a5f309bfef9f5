//! Cost of existing customers: idle time, and a restart of all controllers.

use std::time::Duration;

use ahoi_e2e::audit::{Request, table};
use anyhow::Result;

use super::is_of_ahoi;
use crate::bench::Bench;
use crate::usage::sum;

/// Measures idle time.
pub async fn idle(bench: &mut Bench, n: usize) -> Result<()> {
    let span = bench.profile.idle;
    let scenario = format!("{} idle seconds with {n} customers", span.as_secs());
    println!("{scenario}");
    let start = bench.start()?;
    tokio::time::sleep(span).await;
    let now = bench.usage()?;
    let requests = start.requests()?;
    none(bench, &scenario, "writes", &requests, Request::is_write);
    none(bench, &scenario, "reads of single objects", &requests, Request::is_single_read);
    let cpu = sum(&start.cpu(&now), is_of_ahoi) * 1000.0 / span.as_secs_f64();
    bench.run.value(&scenario, "CPU of Ahoi", "ms/s", cpu);
    bench.run.value(&scenario, "memory of Ahoi", "MB", now.memory(is_of_ahoi) / 1e6);
    Ok(())
}

/// Stops and starts all controllers.
pub async fn restart(bench: &mut Bench, n: usize) -> Result<()> {
    let scenario = format!("every controller restarted with {n} customers");
    println!("{scenario}");
    let begun = bench.start()?;
    bench.cluster.stop_all().await?;
    let stopped = bench.start()?;
    bench.cluster.start_all().await?;
    bench.run.value(&scenario, "until each controller has a leader", "s", stopped.at.elapsed().as_secs_f64());
    // Each controller reconciles all customers after the change of leader. The absence of writes needs time to pass.
    tokio::time::sleep((bench.profile.idle / 2).max(Duration::from_secs(20))).await;
    let now = bench.usage()?;
    let requests = begun.requests()?;
    none(bench, &scenario, "writes", &requests, Request::is_write);
    // Objects of no customer are read at a start.
    let reads = requests.iter().filter(|request| request.is_single_read()).count();
    bench.run.value(&scenario, "reads of single objects", "requests", reads as f64);
    bench.used(&scenario, &stopped, &now, n);
    Ok(())
}

/// Records the number of requests of a kind, which must be 0, and prints them.
fn none(bench: &mut Bench, scenario: &str, what: &str, requests: &[Request], counts: impl Fn(&Request) -> bool) {
    let counted: Vec<Request> = requests.iter().filter(|request| counts(request)).cloned().collect();
    bench.run.zero(scenario, what, "requests", counted.len());
    let lines = table(&counted);
    lines.lines().take(40).for_each(|line| println!("    {line}"));
}
