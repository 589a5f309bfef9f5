//! What a fleet's size costs: real pgbouncer processes with the very files that the agents write, before one PostgreSQL, and
//! an agent's cache. `make bench-fleet` runs it and prints the tables of docs/fleets.md; times are reported, not asserted.

mod agent;
mod process;

use std::path::PathBuf;
use std::time::Duration;

use ahoi_api::{PoolMode, PoolState, PoolerLogin, Route};
use ahoi_pgbouncer::config::Poolers;
use anyhow::{Context, Result};
use tokio_postgres::{Client, Config, NoTls};

use process::{Added, Process};

/// Fleets: so many processes, so many routes in each.
const FLEETS: [(usize, usize); 6] = [(1, 1_000), (1, 2_000), (1, 5_000), (1, 10_000), (5, 1_000), (5, 2_000)];
/// Routes that are added to each process, one after the other.
const ADDED: usize = 5;
/// Databases that are there, for each process: those that are asked from the beginning, and those that are added.
const REAL: usize = 2 * ADDED;
const LOGIN: &str = "bench_app";
const PASSWORD: &str = "bench";

/// Where everything is, from the environment.
#[derive(Clone, Debug)]
struct Place {
    /// A folder in memory, as in a pod.
    directory: PathBuf,
    pgbouncer: PathBuf,
    postgres: u16,
}

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

/// The logins, the lookup of passwords and the databases that there are.
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

/// The databases of a process: a few that there are, and as many others as it takes.
fn names(process: usize, routes: usize) -> Vec<String> {
    let real = (0..ADDED).map(|i| real(process * REAL + i));
    let elsewhere = (ADDED..routes).map(|i| format!("c_{process}_{i:05}"));
    real.chain(elsewhere).collect()
}

fn real(number: usize) -> String {
    format!("bench_{number}")
}

fn route(database: &str, port: u16) -> Route {
    Route {
        server: "bench".into(),
        host: "127.0.0.1".into(),
        port: port.into(),
        database: database.into(),
        auth_database: "postgres".into(),
        pool_mode: PoolMode::Transaction,
        pool_size: 8,
        max_client_connections: Some(100),
        reconnect: None,
        migration: None,
        state: PoolState::Active,
        ..Route::default()
    }
}

fn poolers() -> Poolers {
    [("bench".to_owned(), PoolerLogin { name: "ahoi_pooler_1".into(), password: PASSWORD.into() })].into()
}

async fn connect(port: u16, login: &str, database: &str) -> Result<Client> {
    let mut config = Config::new();
    config.host("127.0.0.1").port(port).user(login).password(PASSWORD).dbname(database);
    config.connect_timeout(Duration::from_secs(30));
    let (client, connection) = config.connect(NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

/// The median, between the best and the worst.
fn typical(times: impl Iterator<Item = Duration>) -> String {
    let mut times: Vec<Duration> = times.collect();
    times.sort_unstable();
    let (best, median, worst) = (times[0], times[times.len() / 2], times[times.len() - 1]);
    let (best, worst) = (milliseconds(best), milliseconds(worst));
    if times.len() == 1 { best } else { format!("{} ({best} … {worst})", milliseconds(median)) }
}

/// Without the unit: it is the table's.
fn milliseconds(time: Duration) -> String {
    format!("{:.1}", time.as_secs_f64() * 1000.0)
}
