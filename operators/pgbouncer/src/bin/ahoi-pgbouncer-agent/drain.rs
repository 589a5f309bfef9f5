//! The end of a process: it gets no new clients, its clients finish, and pgbouncer stops.

use std::time::Duration;

use ahoi_pgbouncer::console::Console;
use tokio::time::{Instant, interval};
use tracing::{info, warn};

use crate::supervise::Process;

/// Time limits of a drain.
#[derive(Clone, Copy, Debug)]
pub struct Drain {
    /// Time until no node sends new clients to this pod.
    pub announce: Duration,
    /// Time after that in which clients can close their connections themselves.
    pub grace: Duration,
    /// Maximum time after the announcement.
    pub limit: Duration,
}

/// Stops pgbouncer as its clients finish. Idle clients are disconnected a few at a time, so that they do not all log in
/// elsewhere at once. Clients in a transaction stay until the limit.
pub async fn drain(process: &mut Process, console: Option<Console>, drain: Drain) {
    info!("draining");
    tokio::time::sleep(drain.announce).await;
    let begun = Instant::now();
    if let Some(console) = console {
        if let Err(error) = console.shut_down().await {
            warn!(%error, "cannot start the shutdown of pgbouncer");
        }
        let mut ticks = interval(Duration::from_millis(500));
        while begun.elapsed() < drain.limit {
            tokio::select! {
                _ = process.ended() => {}
                _ = ticks.tick() => {
                    // A console that does not answer any more shows that pgbouncer is stopping.
                    if let Ok(clients) = console.clients().await {
                        if clients.is_empty() {
                            process.kill();
                        }
                        if begun.elapsed() > drain.grace {
                            disconnect(&console, clients.iter().filter(|client| client.is_idle()).map(|client| client.id)).await;
                        }
                    }
                }
            }
            if !process.is_running() {
                info!("drained");
                return;
            }
        }
    }
    process.kill();
    let _ = tokio::time::timeout(Duration::from_secs(2), process.ended()).await;
    info!(seconds = begun.elapsed().as_secs(), "pgbouncer stopped at the time limit");
}

/// Disconnects a tenth of them, and at least 20.
async fn disconnect(console: &Console, idle: impl Iterator<Item = u64>) {
    let idle: Vec<u64> = idle.collect();
    for client in idle.iter().take((idle.len() / 10).max(20)) {
        // It may have disconnected meanwhile.
        let _ = console.kill_client(*client).await;
    }
}
