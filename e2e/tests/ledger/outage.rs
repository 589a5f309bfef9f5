//! What every outage of PostgreSQL is measured by.

use std::time::Duration;

use ahoi_api::DatabaseServer;
use ahoi_e2e::Cluster;
use ahoi_e2e::ledger::Ledger;
use ahoi_reconcile::is_ready;
use anyhow::{Context as _, Result, ensure};
use tokio::time::{Instant, sleep, timeout};

use crate::Outcome;

/// The pod of the demo's PostgreSQL.
pub const POD: &str = "demo-postgres-0";
/// Its DatabaseServer.
pub const SERVER: &str = "demo";
/// Within this of its return every client has booked, and the server is Ready.
const BACK: Duration = Duration::from_secs(10);

/// Waits until PostgreSQL is back, every client has booked and the DatabaseServer is Ready, the latter two not long after.
pub async fn back_again(cluster: &Cluster, row: &str, ledger: &Ledger) -> Result<()> {
    let until_back = async {
        // PostgreSQL has no watch; the time-out around this bounds it.
        while cluster.admin("postgres").await.is_err() {
            sleep(Duration::from_millis(100)).await;
        }
    };
    timeout(Duration::from_secs(330), until_back).await.context("PostgreSQL has not come back")?;
    let back = Instant::now();
    let booked = ledger.progress(Duration::from_secs(60)).await;
    let booked_after = back.elapsed();
    let ready = |server: Option<&DatabaseServer>| server.is_some_and(is_ready);
    let told = cluster.until(&cluster.all(), SERVER, "Ready again", 60, ready).await;
    println!("{row}: every client booked {booked_after:.1?} after its return, Ready after {:.1?}", back.elapsed());
    booked.and(told.map(drop))?;
    ensure!(booked_after < BACK, "clients booked {booked_after:.1?} after its return");
    ensure!(back.elapsed() < BACK, "Ready {:.1?} after its return", back.elapsed());
    Ok(())
}

/// Nothing is lost, and hardly anybody failed whose transaction was not in flight.
pub fn only_in_flight(outcome: &Outcome) -> Result<()> {
    outcome.ledger.nothing_lost()?;
    ensure!(outcome.pgbench.nothing_lost(), "pgbench lost something: {}", outcome.pgbench);
    ensure!(outcome.ledger.needless == 0, "clients failed that could have waited:\n{}", outcome.ledger);
    Ok(())
}
