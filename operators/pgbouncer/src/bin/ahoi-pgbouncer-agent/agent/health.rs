//! The console of pgbouncer, and the restart of a pgbouncer that does not answer.

use std::process::ExitStatus;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ahoi_pgbouncer::config::FileLogins;
use ahoi_pgbouncer::console::Console;
use anyhow::{Result, bail};
use tokio::time::{Instant, sleep};
use tracing::warn;

use super::Agent;

/// A pgbouncer without an answer for this long is restarted.
const HUNG: Duration = Duration::from_secs(45);

impl Agent {
    /// The console. A caller stores it again after a successful answer; otherwise the next caller opens a new one.
    pub(super) async fn console(&mut self) -> Result<Console> {
        if let Some(console) = self.console.take() {
            return Ok(console);
        }
        // A new pgbouncer needs a moment to listen, and one that exits because of its files never does.
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            tokio::select! {
                console = Console::connect(&self.options.directory, self.options.port) => match console {
                    Ok(console) => return Ok(console),
                    Err(error) if Instant::now() > deadline => return Err(error),
                    Err(_) => sleep(Duration::from_millis(20)).await,
                },
                status = self.process.ended() => {
                    self.record_exit(status);
                    bail!("pgbouncer exited while it was starting; see the log of the pod");
                }
            }
        }
    }

    /// The console, or none if pgbouncer does not answer now.
    pub(super) async fn open_console(&mut self) -> Option<Console> {
        match self.console.take() {
            Some(console) => Some(console),
            None => Console::connect(&self.options.directory, self.options.port).await.ok(),
        }
    }

    /// Records an exit of pgbouncer. The next reconcile restarts it.
    pub(super) fn record_exit(&mut self, status: Option<ExitStatus>) {
        warn!(status = status.map(|status| status.to_string()), "pgbouncer exited; restarting it");
        self.metrics.restarts.inc();
        self.console = None;
        self.known.file_logins = FileLogins::default();
        self.serving.store(false, Ordering::Relaxed);
    }

    /// Marks a pgbouncer that does not answer as not ready, and kills it later. One that answers keeps serving, even if its files
    /// could not be loaded.
    pub(super) async fn check_health(&mut self) {
        if self.answered.elapsed() > HUNG / 2
            && let Some(console) = self.open_console().await
            && console.marker().await.is_ok()
        {
            self.answered = Instant::now();
            self.console = Some(console);
        }
        if self.answered.elapsed() > HUNG {
            warn!("pgbouncer does not answer; killing it");
            self.process.kill();
            self.answered = Instant::now();
        } else if self.answered.elapsed() > HUNG / 2 {
            self.serving.store(false, Ordering::Relaxed);
        }
    }
}
