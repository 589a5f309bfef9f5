//! Normal operations, and most outages, cause no failed query and no lost commit. Each test is a row of a table. The tests disturb the
//! whole cluster, so they run one after the other: `make test-ledger`.

mod cancel;
mod controllers;
mod crash;
mod customers;
mod fleet;
mod flood;
mod long_outage;
mod maintenance;
mod manual_changes;
mod outage;
mod pgbench;
mod pod;
mod quota;
mod rotation;
mod settings;
mod strangers;

use ahoi_e2e::Cluster;
use ahoi_e2e::ledger::{Ledger, Report};
use anyhow::{Context as _, Result, ensure};

use crate::pgbench::Pgbench;

static ONE_AT_A_TIME: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

const CUSTOMERS: [&str; 3] = ["ledger-a", "ledger-b", "ledger-c"];
/// Clients of each customer: two with tokio-postgres and two with sqlx.
const CONNECTIONS: usize = 4;

/// Results of the ledger and of pgbench for the same disturbance.
struct Outcome {
    ledger: Report,
    pgbench: pgbench::Report,
}

impl Outcome {
    fn nothing_failed(&self) -> Result<()> {
        self.ledger.nothing_failed()?;
        ensure!(self.pgbench.is_flawless(), "pgbench failed: {}", self.pgbench);
        Ok(())
    }
}

/// Runs `disturb` while clients book. Their results are evaluated in any case, because they may explain a failed disturbance.
async fn booking(cluster: &Cluster, row: &str, disturb: impl AsyncFnOnce(&Ledger) -> Result<()>) -> Result<Outcome> {
    let ledger = Ledger::open(cluster, &CUSTOMERS, CONNECTIONS).await?;
    let pgbench = Pgbench::start(cluster, CUSTOMERS[0]).await?;
    let disturbed = disturb(&ledger).await;
    let pgbench = pgbench.finish(cluster).await.context("pgbench's report");
    let ledger = ledger.close(cluster).await?;
    println!("{row}: {ledger}");
    if let Ok(pgbench) = &pgbench {
        println!("{row}: pgbench: {pgbench}");
    }
    disturbed?;
    let pgbench = pgbench?;
    Ok(Outcome { ledger, pgbench })
}
