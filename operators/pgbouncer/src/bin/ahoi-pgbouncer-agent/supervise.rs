//! The pgbouncer process, which is restarted when it exits.

use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWriteExt, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::Notify;
use tokio::time::Instant;
use tracing::{info, warn};

/// A process that ran for this long did not fail at its start.
const HEALTHY: Duration = Duration::from_secs(60);
/// Log message of pgbouncer when a server refuses a login.
const REFUSED: &[u8] = b"server login failed: ";
/// Maximum pause before a restart.
const MAX_BACKOFF: Duration = Duration::from_secs(5);

/// pgbouncer, running or not.
pub struct Process {
    program: PathBuf,
    child: Option<Child>,
    started: Instant,
    /// Number of consecutive exits soon after the start.
    failed_starts: u32,
    /// Notified when a PostgreSQL server refused a login of pgbouncer.
    refused: Arc<Notify>,
}

impl Process {
    pub fn new(program: PathBuf) -> Self {
        Process { program, child: None, started: Instant::now(), failed_starts: 0, refused: Arc::default() }
    }

    /// Starts pgbouncer with the configuration `ini`, unless it runs.
    pub async fn ensure(&mut self, ini: &Path) -> Result<()> {
        if self.child.is_some() {
            return Ok(());
        }
        tokio::time::sleep_until(self.started + self.backoff()).await;
        let mut command = Command::new(&self.program);
        command.arg(ini).stdin(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().with_context(|| format!("cannot start {}", self.program.display()))?;
        info!(pid = child.id(), "pgbouncer started");
        if let Some(log) = child.stderr.take() {
            tokio::spawn(forward(log, self.refused.clone()));
        }
        self.child = Some(child);
        self.started = Instant::now();
        Ok(())
    }

    /// Notified when a PostgreSQL server refused a login of pgbouncer.
    pub fn refused(&self) -> Arc<Notify> {
        self.refused.clone()
    }

    pub fn is_running(&self) -> bool {
        self.child.is_some()
    }

    /// Returns when pgbouncer has exited; never if it does not run.
    pub async fn ended(&mut self) -> Option<ExitStatus> {
        let Some(child) = &mut self.child else { return std::future::pending().await };
        let status = child.wait().await.ok();
        self.child = None;
        self.failed_starts = if self.started.elapsed() > HEALTHY { 0 } else { self.failed_starts + 1 };
        status
    }

    /// Kills pgbouncer.
    pub fn kill(&mut self) {
        if let Some(child) = &mut self.child
            && let Err(error) = child.start_kill()
        {
            warn!(%error, "cannot kill pgbouncer");
        }
    }

    /// No pause after the first exit: clients wait.
    fn backoff(&self) -> Duration {
        match self.failed_starts {
            0 | 1 => Duration::ZERO,
            failed_starts => (Duration::from_millis(100) * (1 << failed_starts.min(10))).min(MAX_BACKOFF),
        }
    }
}

/// Copies pgbouncer's log to the pod's log, and notifies of logins that a server refused: pgbouncer then fails its next clients.
async fn forward(log: impl AsyncRead + Unpin, refused: Arc<Notify>) {
    let (mut log, mut line, mut stderr) = (BufReader::new(log), Vec::new(), tokio::io::stderr());
    while log.read_until(b'\n', &mut line).await.is_ok_and(|read| read > 0) {
        if line.windows(REFUSED.len()).any(|words| words == REFUSED) {
            refused.notify_waiters();
        }
        // A lost line is no reason to stop.
        let _ = stderr.write_all(&line).await;
        line.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn restarts_are_delayed_more_and_more() {
        let mut process = Process::new("/bin/false".into());
        for pause in [0, 0, 400, 800] {
            assert_eq!(process.backoff().as_millis(), pause);
            process.started -= process.backoff();
            process.ensure(Path::new("x")).await.unwrap();
            assert!(process.is_running());
            assert!(!process.ended().await.unwrap().success());
            assert!(!process.is_running());
        }
    }

    #[tokio::test]
    async fn a_refused_login_in_the_log_notifies() {
        let refused = Arc::new(Notify::new());
        let notified = refused.clone();
        let log = &b"LOG stats\nWARNING server login failed: FATAL the database system is shutting down\n"[..];
        tokio::join!(notified.notified(), forward(log, refused));
    }

    #[tokio::test]
    async fn a_killed_process_exits() {
        let mut process = Process::new("/bin/sleep".into());
        process.ensure(Path::new("60")).await.unwrap();
        process.kill();
        assert!(!process.ended().await.unwrap().success());
    }
}
