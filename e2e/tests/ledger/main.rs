//! A customer's database runs at all times: whatever an operations team does on a normal day, and most of what happens on a
//! bad one, goes by without a failed query and without a lost commit. A row of the table is a test here; they disturb the
//! whole cluster, so they run one after the other, apart from the rest: `make test-ledger`.

mod cancel;
mod controllers;
mod crash;
mod customers;
mod fleet;
mod flood;
mod hands;
mod long_outage;
mod maintenance;
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
/// Of each customer: two by tokio-postgres and two by sqlx.
const CONNECTIONS: usize = 4;

/// What the ledger and pgbench, which nobody here wrote, have to say about the same disturbance.
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

/// Disturbs while clients book. They are asked afterwards in any case: what they saw may be why the disturbance failed.
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
