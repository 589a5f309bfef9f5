//! The cost of a fleet's size: real pgbouncer processes with the files that the agents write, in front of one PostgreSQL, and the
//! cache of an agent. `make bench-fleet` runs it and prints the tables of docs/fleets.md; times are reported, not asserted.

mod agent;
mod fixture;
mod process;

use std::time::Duration;

use anyhow::{Context, Result};
use fixture::{ADDED, LOGIN, PASSWORD, Place, REAL, connect, milliseconds, real};
use process::{Added, Process};

/// Fleets: number of processes, and of routes in each.
const FLEETS: [(usize, usize); 6] = [(1, 1_000), (1, 2_000), (1, 5_000), (1, 10_000), (5, 1_000), (5, 2_000)];
#[tokio::main]
async fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    if let Some(pools) = arguments.next() {
        let shards = arguments.next().context("how many shards?")?;
        return agent::measure(pools.parse()?, shards.parse()?);
    }
    let variable = |name: &str| std::env::var(name).with_context(|| format!("{name} is not set: see make bench-fleet"));
    let place = Place {
        directory: variable("BENCH_DIRECTORY")?.into(),
        pgbouncer: variable("PGBOUNCER")?.into(),
        postgres: variable("POSTGRES_PORT")?.parse()?,
    };
    prepare(&place).await?;
    println!(
        "| processes | routes in each | start | render and write | `RELOAD` | proof | added to first answer | longest wait of others (at rest) | memory of each, in all |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    for (processes, routes) in FLEETS {
        measure(&place, processes, routes)
            .await
            .with_context(|| format!("{processes} processes of {routes} routes"))?;
    }
    println!();
    agent::compare()
}

/// Creates the logins, the lookup function and the databases.
async fn prepare(place: &Place) -> Result<()> {
    let admin = connect(place.postgres, "postgres", "postgres").await?;
    admin
        .batch_execute(&format!(
            "CREATE ROLE ahoi_pooler_1 LOGIN PASSWORD '{PASSWORD}'; CREATE ROLE {LOGIN} LOGIN PASSWORD '{PASSWORD}';
             CREATE SCHEMA ahoi; GRANT USAGE ON SCHEMA ahoi TO ahoi_pooler_1;
             CREATE FUNCTION ahoi.pooler_lookup(login text) RETURNS TABLE (username text, password text)
               LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
               AS 'SELECT rolname::text, rolpassword FROM pg_authid WHERE rolname = login'"
        ))
        .await?;
    let processes = FLEETS.iter().map(|(processes, _)| *processes).max().unwrap_or(1);
    for name in (0..processes * REAL).map(real) {
        admin.batch_execute(&format!("CREATE DATABASE {name} STRATEGY file_copy")).await?;
    }
    Ok(())
}

async fn measure(place: &Place, processes: usize, routes: usize) -> Result<()> {
    let mut fleet = Vec::new();
    for number in 0..processes {
        fleet.push(Process::start(place, number, names(number, routes)).await?);
    }
    let mut rest = Duration::ZERO;
    let mut added: Vec<Added> = Vec::new();
    for process in &mut fleet {
        process.begin().await?;
        rest = rest.max(process.longest_wait_at_rest().await?);
        for _ in 0..ADDED {
            added.push(process.add_a_route().await?);
        }
        process.end();
    }
    let memory: Vec<u64> = fleet.iter().map(Process::memory).collect::<Result<_>>()?;
    let of = |what: fn(&Added) -> Duration| typical(added.iter().map(what));
    println!(
        "| {processes} | {routes} | {} | {} | {} | {} | {} | {} | {} | {} MiB, {} MiB |",
        typical(fleet.iter().map(|process| process.started)),
        of(|added| added.written),
        of(|added| added.reload),
        of(|added| added.proof),
        of(|added| added.answered),
        of(|added| added.longest_wait),
        milliseconds(rest),
        memory.iter().max().unwrap_or(&0) / 1024,
        memory.iter().sum::<u64>() / 1024,
    );
    for process in fleet {
        process.stop().await?;
    }
    Ok(())
}

/// The databases of a process: a few that exist, and as many others as it needs.
fn names(process: usize, routes: usize) -> Vec<String> {
    let real = (0..ADDED).map(|i| real(process * REAL + i));
    let elsewhere = (ADDED..routes).map(|i| format!("c_{process}_{i:05}"));
    real.chain(elsewhere).collect()
}

/// The median, with the best and the worst.
fn typical(times: impl Iterator<Item = Duration>) -> String {
    let mut times: Vec<Duration> = times.collect();
    times.sort_unstable();
    let (best, median, worst) = (times[0], times[times.len() / 2], times[times.len() - 1]);
    let (best, worst) = (milliseconds(best), milliseconds(worst));
    if times.len() == 1 { best } else { format!("{} ({best} … {worst})", milliseconds(median)) }
}
