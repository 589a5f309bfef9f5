//! `ahoi-bench`: measures the suite on the cluster of KUBECONFIG, and makes a report of what it measured. `e2e/bench/run` starts
//! the cluster and calls this.

mod accounts;
mod bench;
mod clear;
mod machine;
mod profile;
mod recorded;
mod report;
mod results;
mod scenarios;
mod statements;
mod stats;
mod usage;
mod watch;

use std::fs;
use std::path::PathBuf;

use ahoi_e2e::Cluster;
use anyhow::{Context as _, Result, ensure};
use clap::{Parser, ValueEnum};

use crate::bench::{Bench, fan_out_spec, whole_spec};
use crate::machine::Machine;
use crate::profile::Profile;
use crate::recorded::Recorded;
use crate::results::Run;
use crate::scenarios::{changes, converge, databases, floor, large, offboard, peers, rest, steady};

/// Measures the suite, and makes a report of what was measured.
#[derive(Parser)]
enum Command {
    /// One run on the cluster of KUBECONFIG
    Measure {
        /// smoke, quick or full
        profile: String,
        /// Which scenarios to run; all without
        #[arg(long, value_delimiter = ',')]
        only: Vec<Scenario>,
        /// The file that what was found is written to
        #[arg(long)]
        into: PathBuf,
    },
    /// A report of several runs of one profile
    Report {
        /// The folder that it is written to
        #[arg(long)]
        into: PathBuf,
        /// What the runs have written
        #[arg(required = true)]
        runs: Vec<PathBuf>,
    },
}

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Scenario {
    /// Customers without a database, at once
    FanOut,
    /// More of them than in the others, at once
    Burst,
    /// Customers without a database, one after the other
    Steady,
    /// Toggles, a Plan change, repairs
    Changes,
    /// A restart of every controller, and idle time
    Rest,
    /// Ten thousand customers without a database
    Large,
    /// Databases alone, and the same SQL by a bare client
    Databases,
    /// Whole customers, with PostgreSQL
    Whole,
    /// The bare writes
    Floor,
    /// A parent on controller-runtime, and kro
    Peers,
}

#[tokio::main]
async fn main() -> Result<()> {
    match Command::parse() {
        Command::Measure { profile, only, into } => {
            let run = measure(Profile::named(&profile)?, &only).await?;
            fs::write(&into, serde_json::to_string_pretty(&run)?).with_context(|| into.display().to_string())?;
            ensure!(run.violations.is_empty(), "what must be is not:\n  {}", run.violations.join("\n  "));
            Ok(())
        }
        Command::Report { into, runs } => {
            let read = |path: &PathBuf| -> Result<Run> {
                let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
                Ok(serde_json::from_str(&text)?)
            };
            report::write(&into, &runs.iter().map(read).collect::<Result<Vec<Run>>>()?)
        }
    }
}

async fn measure(profile: Profile, only: &[Scenario]) -> Result<Run> {
    let wanted = |scenario| only.is_empty() || only.contains(&scenario);
    let cluster = Cluster::connect().await?;
    let name = std::env::var("CLUSTER").context("CLUSTER is not set: run e2e/bench/run")?;
    let peers = PathBuf::from(std::env::var_os("PEERS").context("PEERS is not set: run e2e/bench/run")?);
    let kubernetes = cluster.client.apiserver_version().await?.git_version;
    let machine = Machine::this(&kubernetes, &fs::read_to_string(peers.join("versions"))?);
    let run = Run { profile: profile.name.into(), machine, ..Run::default() };
    let empty = usage::Usage::now(&name)?;
    let mut bench = Bench { cluster, name, peers, profile, run, empty };
    let bench = &mut bench;

    bench.make_plan().await?;
    let recorded = Recorded::take(bench).await?;
    if wanted(Scenario::Burst) {
        let burst = converge::run(bench, converge::FAN_OUT, "burst", bench.profile.burst, &fan_out_spec()).await?;
        // Customers stay where nothing comes after them: their end takes longer than their beginning.
        if only != [Scenario::Burst] {
            bench.remove(bench.cluster.customers(), &burst).await?;
        }
    }
    if [Scenario::FanOut, Scenario::Steady, Scenario::Changes, Scenario::Rest].into_iter().any(wanted) {
        without_database(bench, wanted, only == [Scenario::Steady]).await?;
    }
    if wanted(Scenario::Whole) {
        for &n in bench.profile.whole {
            let set = format!("whole{n}");
            let customers = converge::run(bench, converge::WHOLE, &set, n, &whole_spec()).await?;
            offboard::run(bench, converge::WHOLE, &set, &customers).await?;
        }
    }
    if wanted(Scenario::Databases) {
        databases::run(bench).await?;
    }
    if wanted(Scenario::Floor) || wanted(Scenario::Peers) {
        // From here on the customers are nobody's.
        bench.cluster.stop_all().await?;
    }
    if wanted(Scenario::Floor) {
        floor::run(bench, &recorded).await?;
    }
    if wanted(Scenario::Peers) {
        peers::run(bench, &recorded).await?;
    }
    if wanted(Scenario::Large) && bench.profile.large.is_some() {
        // Last, because those customers stay; and by processes that have seen no others.
        bench.cluster.stop_all().await?;
        rest::start(bench).await?;
        bench.empty = bench.usage()?;
        large::run(bench).await?;
    }
    Ok(std::mem::take(&mut bench.run))
}

/// Everything about customers without a database. Those that were made last stay for the scenarios about changes; if these
/// scenarios are the `last`, so do those that came steadily.
async fn without_database(bench: &mut Bench, wanted: impl Fn(Scenario) -> bool, last: bool) -> Result<()> {
    let sizes = bench.profile.fan_out;
    let sizes = if wanted(Scenario::FanOut) { sizes } else { &sizes[sizes.len() - 1..] };
    let mut standing = Vec::new();
    let mut set = String::new();
    for (number, n) in sizes.iter().enumerate() {
        if number > 0 {
            offboard::run(bench, converge::FAN_OUT, &set, &standing).await?;
        }
        set = format!("fan{n}");
        standing = converge::run(bench, converge::FAN_OUT, &set, *n, &fan_out_spec()).await?;
    }
    if wanted(Scenario::Steady) {
        let customers = steady::run(bench).await?;
        if last {
            return Ok(());
        }
        offboard::run(bench, "that had come steadily", "steady", &customers).await?;
    }
    if wanted(Scenario::Changes) {
        changes::toggle(bench, &standing).await?;
        changes::plan(bench, &standing).await?;
        changes::repair(bench, &standing).await?;
    }
    if wanted(Scenario::Rest) {
        rest::restart(bench, standing.len()).await?;
        rest::idle(bench, standing.len()).await?;
    }
    offboard::run(bench, converge::FAN_OUT, &set, &standing).await
}
