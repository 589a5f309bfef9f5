//! Customers at a steady rate.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use ahoi_api::Customer;
use anyhow::Result;
use kube::api::PostParams;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

use super::{QUIET, latencies};
use crate::bench::{Bench, STEP_TIMEOUT, fan_out_spec, names};

/// Creates customers at the rate of the profile.
pub async fn run(bench: &mut Bench) -> Result<()> {
    bench.start_controllers().await?;
    let (rate, span) = (bench.profile.rate, bench.profile.steady);
    let scenario = format!("{rate} customers a second for {} s", span.as_secs());
    println!("{scenario}");
    let names = names("steady", rate as usize * span.as_secs() as usize);
    let mut ready = bench.watch_ready("steady").await?;
    let start = bench.start()?;
    let sent = paced(rate, &names, |name| {
        let customers = bench.cluster.customers();
        async move {
            let customer = Customer::new(&name, serde_json::from_value(fan_out_spec())?);
            customers.create(&PostParams::default(), &customer).await?;
            Ok(())
        }
    })
    .await?;
    let ready = ready.all(names.len(), "customers Ready", STEP_TIMEOUT).await?;
    bench.quiet(ahoi_e2e::SYSTEM, QUIET).await?;
    bench.latency(&scenario, "created → Ready", latencies(&sent, &ready));
    bench.requests(&scenario, &start.requests()?, names.len());
    bench.finish("steady").await
}

/// Runs an action for each of `names` at a fixed rate, independent of earlier ones. Returns their start times.
pub async fn paced<F>(rate: u32, names: &[String], act: impl Fn(String) -> F) -> Result<BTreeMap<String, Instant>>
where
    F: Future<Output = Result<()>> + Send + 'static,
{
    let mut clock = interval(Duration::from_secs(1) / rate);
    // A delay does not shift the following ones.
    clock.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut begun = BTreeMap::new();
    let mut running = JoinSet::new();
    for name in names {
        // The scheduled time, so that waiting for a core counts.
        begun.insert(name.clone(), clock.tick().await.into_std());
        running.spawn(act(name.clone()));
    }
    while let Some(done) = running.join_next().await {
        done??;
    }
    Ok(begun)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench;

    #[tokio::test(start_paused = true)]
    async fn keeps_its_pace_whatever_the_acts_take() {
        let slow = |_| async {
            tokio::time::sleep(Duration::from_secs(60)).await;
            Ok(())
        };
        let begun = paced(10, &bench::names("a", 21), slow).await.unwrap();
        let (first, last) = (begun["a-00000"], begun["a-00020"]);
        assert_eq!(last.duration_since(first), Duration::from_secs(2));
    }
}
