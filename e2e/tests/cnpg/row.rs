//! A row of the table: clients book while something happens to the server.

use std::time::Duration;

use ahoi_e2e::ledger::{Ledger, Report};
use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::engine::Engine;
use crate::unavailable::Probe;

pub const CUSTOMERS: [&str; 2] = ["cnpg-a", "cnpg-b"];
/// Of each customer: two by tokio-postgres and two by sqlx.
const CONNECTIONS: usize = 4;
/// Within this of the server's return a client has been served: two attempts of pgbouncer, and a busy machine.
const SLACK: Duration = Duration::from_secs(3);

/// What the clients and the probe saw.
pub struct Outcome {
    pub ledger: Report,
    /// How long the primary served no login, the pooler aside.
    pub unavailable: Duration,
}

/// The features of a customer on the DatabaseServer with this region, through the guide's fleet.
pub fn features(region: &str) -> Value {
    json!({
        "database": {"enabled": true, "serverSelector": {"region": region}},
        "connectionPool": {"enabled": true, "pgBouncerRef": {"namespace": "ahoi-system", "name": "eu"}},
    })
}

/// Disturbs while clients book, and prints the row. `former` is what was measured before there was this test.
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
    // Asked in any case: what the clients saw may be why the disturbance failed.
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
    /// No client failed.
    pub fn nothing_failed(&self) -> Result<()> {
        self.ledger.nothing_failed()?;
        self.no_wait_of_ours()
    }

    /// No client failed without something in flight. Replication is asynchronous: the last commits before a crash may be lost.
    pub fn only_in_flight(&self) -> Result<()> {
        ensure!(self.ledger.needless == 0, "clients failed that could have waited:\n{}", self.ledger);
        ensure!(self.ledger.doubled == 0 && self.ledger.unbalanced == 0, "the ledger is wrong:\n{}", self.ledger);
        self.no_wait_of_ours()
    }

    /// The longest wait is at most this. For what a session of Ahoi could prolong: the server waits for it.
    pub fn within(&self, seconds: u64) -> Result<()> {
        let stall = self.ledger.stall;
        ensure!(stall < Duration::from_secs(seconds), "a client waited {stall:.1?}, and {seconds} s are enough");
        Ok(())
    }

    fn no_wait_of_ours(&self) -> Result<()> {
        let (stall, unavailable) = (self.ledger.stall, self.unavailable);
        ensure!(
            stall < unavailable + SLACK,
            "a client waited {stall:.1?}, and the server was away for {unavailable:.1?}"
        );
        Ok(())
    }
}
