//! Ahoi compared with others. The speed of the machine changes within minutes, so they alternate, and figures of the same round are
//! compared.

use anyhow::{Context as _, Result};

use super::converge;
use super::floor;
use super::labels::FAN_OUT;
use super::peers::Peers;
use crate::bench::{Bench, fan_out_spec};
use crate::recorded::Recorded;

/// Measures Ahoi, the floor and the parent alternately, and then kro.
pub async fn run(bench: &mut Bench, recorded: &Recorded) -> Result<()> {
    let n = bench.profile.compare;
    let peers = Peers::prepare(bench, recorded)?;
    let mut ours = 0.0;
    for round in 0..bench.profile.rounds {
        bench.start_controllers().await?;
        let set = format!("round{round}");
        converge::run(bench, FAN_OUT, &set, n, &fan_out_spec()).await?;
        let rate = bench.run.find(&format!("{n} customers at once, {FAN_OUT}"), "rate");
        ours = rate.context("Ahoi was not measured")?;
        // The controllers would adopt the objects of the others.
        bench.stop_controllers().await?;
        bench.clear(&set).await?;
        floor::run(bench, recorded, ours).await?;
        peers.parent(bench, ours).await?;
    }
    peers.kro(bench, ours).await?;
    peers.remove()
}
