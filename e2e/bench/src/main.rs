//! `ahoi-bench`: measures the suite on the cluster of KUBECONFIG, and makes a report of what it measured. `e2e/bench/run` starts
//! the cluster and calls this.

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

/// What can be measured, in the order in which it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Scenario {
    /// Customers without a database, at once; then they leave
    FanOut,
    /// The suite, the bare writes and a parent on controller-runtime in turns; then kro
    Compare,
    /// Toggles, a Plan change, repairs, a restart of every controller, idle time
    Changes,
    /// Customers without a database, one after the other
    Steady,
    /// More of them than in the others, at once
    Burst,
    /// Whole customers, with PostgreSQL
    Whole,
    /// Databases alone, and the same SQL by a bare client
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
                    bench.run.violations.push(format!("{scenario:?} did not come to its end: {error:#}"));
                }
                // What was found is worth keeping, whatever comes after it.
                let found = serde_json::to_string_pretty(&bench.run)?;
                fs::write(&into, found).with_context(|| into.display().to_string())?;
                outcome?;
            }
            let violations = &bench.run.violations;
            ensure!(violations.is_empty(), "what must be is not:\n  {}", violations.join("\n  "));
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

/// Gets to know the cluster of KUBECONFIG and what a customer is made of.
async fn begin(profile: Profile) -> Result<(Bench, Recorded)> {
    let cluster = Cluster::connect().await?;
    let name = std::env::var("CLUSTER").context("CLUSTER is not set: run e2e/bench/run")?;
    let peers = PathBuf::from(std::env::var_os("PEERS").context("PEERS is not set: run e2e/bench/run")?);
    let kubernetes = cluster.client.apiserver_version().await?.git_version;
    let machine = Machine::this(&kubernetes, &fs::read_to_string(peers.join("versions"))?);
    let run = Run { profile: profile.name.into(), machine, ..Run::default() };
    let empty = usage::Usage::now(&name)?;
    let bench = Bench { cluster, name, peers, profile, run, empty, suite_runs: true, last: false };
    bench.make_plan().await?;
    let recorded = Recorded::take(&bench).await?;
    Ok((bench, recorded))
}

async fn measure(bench: &mut Bench, scenario: Scenario, recorded: &Recorded) -> Result<()> {
    match scenario {
        Scenario::FanOut => come_and_go(bench, labels::FAN_OUT, "fan", bench.profile.fan_out, &fan_out_spec()).await,
        Scenario::Compare => compare::run(bench, recorded).await,
        Scenario::Changes => changes::run(bench).await,
        Scenario::Steady => steady::run(bench).await,
        Scenario::Burst => {
            bench.with_suite().await?;
            converge::run(bench, labels::FAN_OUT, "burst", bench.profile.burst, &fan_out_spec()).await?;
            bench.leave("burst").await
        }
        Scenario::Whole => come_and_go(bench, labels::WHOLE, "whole", bench.profile.whole, &whole_spec()).await,
        Scenario::Databases => databases::run(bench).await,
        Scenario::Large => large::run(bench).await,
    }
}

/// Customers of each of `sizes`, all at once; each time they leave at once.
async fn come_and_go(bench: &mut Bench, kind: &str, set: &str, sizes: &[usize], spec: &Value) -> Result<()> {
    bench.with_suite().await?;
    for &n in sizes {
        let set = format!("{set}{n}");
        let customers = converge::run(bench, kind, &set, n, spec).await?;
        offboard::run(bench, kind, &set, &customers).await?;
    }
    Ok(())
}
