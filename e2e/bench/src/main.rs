//! `ahoi-bench`: measures Ahoi on the cluster of KUBECONFIG and writes the report. `e2e/bench/run` starts the cluster and runs it.

mod accounts;
mod bench;
mod clear;
mod cores;
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
use serde_json::Value;

use crate::bench::{Bench, fan_out_spec, whole_spec};
use crate::machine::Machine;
use crate::profile::Profile;
use crate::recorded::Recorded;
use crate::results::Run;
use crate::scenarios::{changes, compare, converge, databases, labels, large, offboard, steady};

/// Measures Ahoi and writes the report.
#[derive(Parser)]
enum Command {
    /// Makes one run on the cluster of KUBECONFIG
    Measure {
        /// smoke, quick or full
        profile: String,
        /// Scenarios to run. Default: all
        #[arg(long, value_delimiter = ',')]
        only: Vec<Scenario>,
        /// File for the results
        #[arg(long)]
        into: PathBuf,
    },
    /// Writes the report of several runs of a profile
    Report {
        /// Folder for the report
        #[arg(long)]
        into: PathBuf,
        /// Files with the results of the runs
        #[arg(required = true)]
        runs: Vec<PathBuf>,
    },
}

/// Scenarios, in the order in which they run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Scenario {
    /// Customers without a database, created at once and then deleted
    FanOut,
    /// Ahoi, the bare writes and a parent on controller-runtime alternately; then kro
    Compare,
    /// Toggles, a Plan change, repairs, a restart of every controller, idle time
    Changes,
    /// Customers without a database, at a steady rate
    Steady,
    /// More customers without a database than in the other scenarios, at once
    Burst,
    /// Customers with all features
    Whole,
    /// Databases alone, and the same SQL from a bare client
    Databases,
    /// Ten thousand customers without a database
    Large,
}

#[tokio::main]
async fn main() -> Result<()> {
    match Command::parse() {
        Command::Measure { profile, only, into } => {
            let (mut bench, recorded) = begin(Profile::named(&profile)?).await?;
            let wanted =
                Scenario::value_variants().iter().filter(|scenario| only.is_empty() || only.contains(scenario));
            let mut wanted = wanted.peekable();
            while let Some(scenario) = wanted.next() {
                bench.last = wanted.peek().is_none();
                let outcome = measure(&mut bench, *scenario, &recorded).await;
                if let Err(error) = &outcome {
                    bench.run.violations.push(format!("{scenario:?} failed: {error:#}"));
                }
                // Written after each scenario, because a later one may fail.
                let found = serde_json::to_string_pretty(&bench.run)?;
                fs::write(&into, found).with_context(|| into.display().to_string())?;
                outcome?;
            }
            let violations = &bench.run.violations;
            ensure!(violations.is_empty(), "requirements are violated:\n  {}", violations.join("\n  "));
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

/// Connects to the cluster of KUBECONFIG and records the writes of a customer.
async fn begin(profile: Profile) -> Result<(Bench, Recorded)> {
    let cluster = Cluster::connect().await?;
    let name = std::env::var("CLUSTER").context("CLUSTER is not set: run e2e/bench/run")?;
    let peers = PathBuf::from(std::env::var_os("PEERS").context("PEERS is not set: run e2e/bench/run")?);
    let kubernetes = cluster.client.apiserver_version().await?.git_version;
    let machine = Machine::this(&kubernetes, &fs::read_to_string(peers.join("versions"))?);
    let run = Run { profile: profile.name.into(), machine, ..Run::default() };
    let empty = usage::Usage::now(&name)?;
    let bench = Bench { cluster, name, peers, profile, run, empty, is_running: true, last: false };
    bench.make_plan().await?;
    let recorded = Recorded::take(&bench).await?;
    Ok((bench, recorded))
}

async fn measure(bench: &mut Bench, scenario: Scenario, recorded: &Recorded) -> Result<()> {
    match scenario {
        Scenario::FanOut => {
            create_and_delete(bench, labels::FAN_OUT, "fan", bench.profile.fan_out, &fan_out_spec()).await
        }
        Scenario::Compare => compare::run(bench, recorded).await,
        Scenario::Changes => changes::run(bench).await,
        Scenario::Steady => steady::run(bench).await,
        Scenario::Burst => {
            bench.start_controllers().await?;
            converge::run(bench, labels::FAN_OUT, "burst", bench.profile.burst, &fan_out_spec()).await?;
            bench.finish("burst").await
        }
        Scenario::Whole => create_and_delete(bench, labels::WHOLE, "whole", bench.profile.whole, &whole_spec()).await,
        Scenario::Databases => databases::run(bench).await,
        Scenario::Large => large::run(bench).await,
    }
}

/// Creates and deletes `sizes` customers at once.
async fn create_and_delete(bench: &mut Bench, kind: &str, set: &str, sizes: &[usize], spec: &Value) -> Result<()> {
    bench.start_controllers().await?;
    for &n in sizes {
        let set = format!("{set}{n}");
        let customers = converge::run(bench, kind, &set, n, spec).await?;
        offboard::run(bench, kind, &set, &customers).await?;
    }
    Ok(())
}
