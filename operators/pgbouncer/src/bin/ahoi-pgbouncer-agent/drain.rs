//! The end of a process: nobody new is sent here, whoever is here finishes, and then it is over.

use std::time::Duration;

use ahoi_pgbouncer::console::Console;
use tokio::time::{Instant, interval};
use tracing::{info, warn};

use crate::supervise::Process;

/// How an end is to go.
#[derive(Clone, Copy, Debug)]
pub struct Drain {
    /// Until every node has heard that this pod is no longer to be sent clients.
    pub announce: Duration,
    /// After that, how long clients may close their connections by themselves.
    pub grace: Duration,
    /// When it is over, counted from the announcement's end.
    pub limit: Duration,
}

/// Ends pgbouncer as gently as its clients let us. Clients that do nothing are disconnected a few at a time, so that
/// they do not all log in elsewhere at once; what is in a transaction is left alone until the limit.
pub async fn drain(process: &mut Process, console: Option<Console>, drain: Drain) {
    info!("draining");
    tokio::time::sleep(drain.announce).await;
    let begun = Instant::now();
    if let Some(console) = console {
        if let Err(error) = console.shut_down().await {
            warn!(%error, "pgbouncer would not begin to shut down");
        }
        let mut ticks = interval(Duration::from_millis(500));
        while begun.elapsed() < drain.limit {
            tokio::select! {
                _ = process.ended() => {}
                _ = ticks.tick() => {
                    // Once it answers no longer, all that is left is to wait for its end.
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
    info!(seconds = begun.elapsed().as_secs(), "pgbouncer ended");
}

/// A tenth of them, and at least 20.
async fn disconnect(console: &Console, idle: impl Iterator<Item = u64>) {
    let idle: Vec<u64> = idle.collect();
    for client in idle.iter().take((idle.len() / 10).max(20)) {
        // It may have left, or begun something, in the meantime; the latter it will repeat elsewhere.
        let _ = console.kill_client(*client).await;
    }
}
