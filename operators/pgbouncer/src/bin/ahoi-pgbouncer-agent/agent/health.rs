//! The way to pgbouncer, and what becomes of one that does not answer.

use std::process::ExitStatus;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ahoi_pgbouncer::config::FileLogins;
use ahoi_pgbouncer::console::Console;
use anyhow::{Result, bail};
use tokio::time::{Instant, sleep};
use tracing::warn;

use super::Agent;

/// A pgbouncer that has not answered for so long is started anew.
const HUNG: Duration = Duration::from_secs(45);

impl Agent {
    /// The console. Whoever takes it puts it back when it has answered; otherwise it is opened again.
    pub(super) async fn console(&mut self) -> Result<Console> {
        if let Some(console) = self.console.take() {
            return Ok(console);
        }
        // A pgbouncer that has just been started needs a moment, and one that died of its files never answers.
        let patience = Instant::now() + Duration::from_secs(10);
        loop {
            tokio::select! {
                console = Console::connect(&self.options.directory, self.options.port) => match console {
                    Ok(console) => return Ok(console),
                    Err(error) if Instant::now() > patience => return Err(error),
                    Err(_) => sleep(Duration::from_millis(20)).await,
                },
                status = self.process.ended() => {
                    self.died(status);
                    bail!("pgbouncer ended while it was starting; the pod's log says why");
                }
            }
        }
    }

    /// The console as it is now, whatever became of the last turn; none where nobody answers.
    pub(super) async fn open_console(&mut self) -> Option<Console> {
        match self.console.take() {
            Some(console) => Some(console),
            None => Console::connect(&self.options.directory, self.options.port).await.ok(),
        }
    }

    /// It will be started again by the next turn.
    pub(super) fn died(&mut self, status: Option<ExitStatus>) {
        warn!(status = status.map(|status| status.to_string()), "pgbouncer ended; starting it again");
        self.metrics.restarts.inc();
        self.console = None;
        self.known.file_logins = FileLogins::default();
        self.serving.store(false, Ordering::Relaxed);
    }

    /// A process that does not answer serves nobody. One that could not be given its files for another reason goes on.
    pub(super) async fn mind_health(&mut self) {
        if self.answered.elapsed() > HUNG / 2
            && let Some(console) = self.open_console().await
            && console.marker().await.is_ok()
        {
            self.answered = Instant::now();
            self.console = Some(console);
        }
        if self.answered.elapsed() > HUNG {
            warn!("pgbouncer has not answered for long; ending it");
            self.process.kill();
            self.answered = Instant::now();
        } else if self.answered.elapsed() > HUNG / 2 {
            self.serving.store(false, Ordering::Relaxed);
        }
    }
}
