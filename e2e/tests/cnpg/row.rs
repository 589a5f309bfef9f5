//! A row of the table: clients book during a disturbance of the server.

use std::time::Duration;

use ahoi_e2e::ledger::{Ledger, Report};
use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::engine::Engine;
use crate::unavailable::Probe;

pub const CUSTOMERS: [&str; 2] = ["cnpg-a", "cnpg-b"];
/// Clients of each customer: two with tokio-postgres and two with sqlx.
const CONNECTIONS: usize = 4;
/// Longest wait of a client after the server is back: two attempts of pgbouncer, on a busy machine.
const SLACK: Duration = Duration::from_secs(3);

/// Results of the clients and the probe.
pub struct Outcome {
    pub ledger: Report,
    /// How long the primary served no login, measured without the pooler.
    pub unavailable: Duration,
}

/// Returns the features of a customer on the DatabaseServer with this region and the fleet of the guide.
pub fn features(region: &str) -> Value {
    json!({
        "database": {"enabled": true, "serverSelector": {"region": region}},
        "connectionPool": {"enabled": true, "pgBouncerRef": {"namespace": "ahoi-system", "name": "eu"}},
    })
}

/// Runs `disturb` while clients book, and prints the row. `former` are the figures before this test existed.
pub async fn booking(
    engine: &Engine,
    row: &str,
    former: &str,
    region: &str,
    disturb: impl AsyncFnOnce(&Ledger) -> Result<()>,
) -> Result<Outcome> {
    let cluster = &engine.cluster;
    let ledger = Ledger::open_with(cluster, &CUSTOMERS, CONNECTIONS, features(region)).await?;
    let probe = Probe::start(cluster.direct(CUSTOMERS[0]).await?);
    let disturbed = async {
        disturb(&ledger).await?;
        ledger.progress(Duration::from_secs(60)).await
    }
    .await;
    let unavailable = probe.finish().await?;
    // Evaluated in any case: the clients may explain why the disturbance failed.
    let ledger = ledger.close(cluster).await?;
    println!("{row}: {ledger}");
    println!(
        "| {row} | {} + {} | {:.1?} | {unavailable:.1?} | {former} |",
        ledger.failed - ledger.needless,
        ledger.needless,
        ledger.stall
    );
    disturbed?;
    Ok(Outcome { ledger, unavailable })
}

impl Outcome {
    /// Fails if a client failed.
    pub fn nothing_failed(&self) -> Result<()> {
        self.ledger.nothing_failed()?;
        self.no_wait_of_ours()
    }

    /// Fails if a client failed without a transaction in flight. Replication is asynchronous, so the last commits before a crash may be
    /// lost.
    pub fn only_in_flight(&self) -> Result<()> {
        ensure!(self.ledger.needless == 0, "clients failed that could have waited:\n{}", self.ledger);
        ensure!(self.ledger.doubled == 0 && self.ledger.unbalanced == 0, "the ledger is wrong:\n{}", self.ledger);
        self.no_wait_of_ours()
    }

    /// Fails if the longest wait is longer, as a session of Ahoi that the shutdown waits for would cause.
    pub fn within(&self, seconds: u64) -> Result<()> {
        let stall = self.ledger.stall;
        ensure!(stall < Duration::from_secs(seconds), "a client waited {stall:.1?}, more than {seconds} s");
        Ok(())
    }

    fn no_wait_of_ours(&self) -> Result<()> {
        let (stall, unavailable) = (self.ledger.stall, self.unavailable);
        ensure!(
            stall < unavailable + SLACK,
            "a client waited {stall:.1?}, and the server was unavailable for {unavailable:.1?}"
        );
        Ok(())
    }
}
