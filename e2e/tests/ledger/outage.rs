//! Measurements of an outage of PostgreSQL.

use std::time::Duration;

use ahoi_api::DatabaseServer;
use ahoi_e2e::Cluster;
use ahoi_e2e::ledger::Ledger;
use ahoi_reconcile::is_ready;
use anyhow::{Context as _, Result, ensure};
use tokio::time::{Instant, sleep, timeout};

use crate::Outcome;

/// Pod of the demo's PostgreSQL.
pub const POD: &str = "demo-postgres-0";
/// DatabaseServer of the demo.
pub const SERVER: &str = "demo";
/// Longest time from the recovery until all clients have booked and the server is Ready.
const BACK: Duration = Duration::from_secs(10);

/// Waits until PostgreSQL is back. Fails unless all clients book and the DatabaseServer is Ready soon after.
pub async fn back_again(cluster: &Cluster, row: &str, ledger: &Ledger) -> Result<()> {
    let until_back = async {
        // PostgreSQL has no watch. The time-out around this loop bounds it.
        while cluster.admin("postgres").await.is_err() {
            sleep(Duration::from_millis(100)).await;
        }
    };
    timeout(Duration::from_secs(330), until_back).await.context("PostgreSQL does not answer")?;
    let back = Instant::now();
    let booked = ledger.progress(Duration::from_secs(60)).await;
    let booked_after = back.elapsed();
    let ready = |server: Option<&DatabaseServer>| server.is_some_and(is_ready);
    let recovered = cluster.until(&cluster.all(), SERVER, "Ready again", 60, ready).await;
    println!("{row}: all clients booked {booked_after:.1?} after the recovery, Ready after {:.1?}", back.elapsed());
    booked.and(recovered.map(drop))?;
    ensure!(booked_after < BACK, "clients booked {booked_after:.1?} after the recovery");
    ensure!(back.elapsed() < BACK, "Ready {:.1?} after the recovery", back.elapsed());
    Ok(())
}

/// Fails if a commit was lost, or a client failed without a transaction in flight.
pub fn only_in_flight(outcome: &Outcome) -> Result<()> {
    outcome.ledger.nothing_lost()?;
    ensure!(outcome.pgbench.nothing_lost(), "pgbench lost transactions: {}", outcome.pgbench);
    ensure!(outcome.ledger.needless == 0, "clients failed that could have waited:\n{}", outcome.ledger);
    Ok(())
}
