//! What it costs that customers are there: when nothing happens, and when every controller starts anew.

use std::time::Duration;

use ahoi_e2e::audit::{Request, table};
use anyhow::Result;

use super::of_the_suite;
use crate::bench::Bench;
use crate::usage::sum;

/// Does nothing for a while.
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
    let cpu = sum(&start.cpu(&now), of_the_suite) * 1000.0 / span.as_secs_f64();
    bench.run.value(&scenario, "CPU of the suite", "ms/s", cpu);
    bench.run.value(&scenario, "memory of the suite", "MB", now.memory(of_the_suite) / 1e6);
    Ok(())
}

/// Stops every controller and starts all of them.
pub async fn restart(bench: &mut Bench, n: usize) -> Result<()> {
    let scenario = format!("every controller restarted with {n} customers");
    println!("{scenario}");
    let begun = bench.start()?;
    bench.cluster.stop_all().await?;
    let stopped = bench.start()?;
    bench.cluster.start_all().await?;
    bench.run.value(&scenario, "until every controller leads again", "s", stopped.at.elapsed().as_secs_f64());
    // The passes that follow the take-over: one over every customer in each controller. That they write nothing is what is
    // looked for, so time is what must pass.
    tokio::time::sleep((bench.profile.idle / 2).max(Duration::from_secs(20))).await;
    let now = bench.usage()?;
    let requests = begun.requests()?;
    none(bench, &scenario, "writes", &requests, Request::is_write);
    // What belongs to no customer is read at a start.
    let reads = requests.iter().filter(|request| request.is_single_read()).count();
    bench.run.value(&scenario, "reads of single objects", "requests", reads as f64);
    bench.used(&scenario, &stopped, &now, n);
    Ok(())
}

/// Keeps how many requests there are of a kind of which there must be none, and prints those that there are.
fn none(bench: &mut Bench, scenario: &str, what: &str, requests: &[Request], counts: impl Fn(&Request) -> bool) {
    let counted: Vec<Request> = requests.iter().filter(|request| counts(request)).cloned().collect();
    bench.run.zero(scenario, what, "requests", counted.len());
    let lines = table(&counted);
    lines.lines().take(40).for_each(|line| println!("    {line}"));
}
