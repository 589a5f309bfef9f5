//! The pgbouncer process, and starting it again when it has died.

use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::process::{Child, Command};
use tokio::time::Instant;
use tracing::{info, warn};

/// A process that has run for so long did not die of its start.
const HEALTHY: Duration = Duration::from_secs(60);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// pgbouncer, running or not.
pub struct Process {
    program: PathBuf,
    child: Option<Child>,
    started: Instant,
    /// Deaths in a row soon after the start.
    deaths: u32,
}

impl Process {
    pub fn new(program: PathBuf) -> Self {
        Process { program, child: None, started: Instant::now(), deaths: 0 }
    }

    /// Starts it with the configuration `ini`, unless it runs.
    pub async fn ensure(&mut self, ini: &Path) -> Result<()> {
        if self.child.is_some() {
            return Ok(());
        }
        tokio::time::sleep_until(self.started + self.pause()).await;
        let mut command = Command::new(&self.program);
        command.arg(ini).stdin(Stdio::null()).kill_on_drop(true);
        let child = command.spawn().with_context(|| format!("cannot start {}", self.program.display()))?;
        info!(pid = child.id(), "pgbouncer started");
        self.child = Some(child);
        self.started = Instant::now();
        Ok(())
    }

    pub fn is_running(&self) -> bool {
        self.child.is_some()
    }

    /// Returns when it has ended, and never if it does not run.
    pub async fn ended(&mut self) -> Option<ExitStatus> {
        let Some(child) = &mut self.child else { return std::future::pending().await };
        let status = child.wait().await.ok();
        self.child = None;
        self.deaths = if self.started.elapsed() > HEALTHY { 0 } else { self.deaths + 1 };
        status
    }

    /// Ends it at once.
    pub fn kill(&mut self) {
        if let Some(child) = &mut self.child
            && let Err(error) = child.start_kill()
        {
            warn!(%error, "cannot kill pgbouncer");
        }
    }

    /// No pause after the first death: clients wait.
    fn pause(&self) -> Duration {
        match self.deaths {
            0 | 1 => Duration::ZERO,
            deaths => (Duration::from_millis(100) * (1 << deaths.min(10))).min(LONGEST_PAUSE),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_process_that_died_is_started_again_ever_more_slowly() {
        let mut process = Process::new("/bin/false".into());
        for pause in [0, 0, 400, 800] {
            assert_eq!(process.pause().as_millis(), pause);
            process.started -= process.pause();
            process.ensure(Path::new("x")).await.unwrap();
            assert!(process.is_running());
            assert!(!process.ended().await.unwrap().success());
            assert!(!process.is_running());
        }
    }

    #[tokio::test]
    async fn a_kill_ends_it() {
        let mut process = Process::new("/bin/sleep".into());
        process.ensure(Path::new("60")).await.unwrap();
        process.kill();
        assert!(!process.ended().await.unwrap().success());
    }
}
