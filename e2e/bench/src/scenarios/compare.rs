//! The suite beside others that do the same. The machine's speed changes within minutes, so they take turns, and what is
//! compared is what was measured in the same turn.

use anyhow::{Context as _, Result};

use super::converge;
use super::floor;
use super::labels::FAN_OUT;
use super::peers::Peers;
use crate::bench::{Bench, fan_out_spec};
use crate::recorded::Recorded;

/// The suite, the floor and the parent in turns; then kro, which is far from all of them.
pub async fn run(bench: &mut Bench, recorded: &Recorded) -> Result<()> {
    let n = bench.profile.compare;
    let peers = Peers::prepare(bench, recorded)?;
    let mut ours = 0.0;
    for round in 0..bench.profile.rounds {
        bench.with_suite().await?;
        let set = format!("round{round}");
        converge::run(bench, FAN_OUT, &set, n, &fan_out_spec()).await?;
        let rate = bench.run.find(&format!("{n} customers at once, {FAN_OUT}"), "rate");
        ours = rate.context("the suite was not measured")?;
        // It would find the objects of the others its own.
        bench.without_suite().await?;
        bench.clear(&set).await?;
        floor::run(bench, recorded, ours).await?;
        peers.parent(bench, ours).await?;
    }
    peers.kro(bench, ours).await?;
    peers.remove()
}
