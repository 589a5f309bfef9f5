//! How long the server itself served no client, measured without the pooler.

use std::time::Duration;

use ahoi_e2e::postgres::Login;
use anyhow::Result;
use tokio::sync::oneshot::{self, error::TryRecvError};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

/// Interval between two attempts.
const PACE: Duration = Duration::from_millis(200);
/// An available primary answers faster, also on a busy machine.
const ANSWER: Duration = Duration::from_secs(2);

/// Logs in on the primary repeatedly, each time with a new session.
pub struct Probe {
    stop: oneshot::Sender<()>,
    task: JoinHandle<Duration>,
}

impl Probe {
    pub fn start(login: Login) -> Probe {
        let (stop, mut stopped) = oneshot::channel();
        let task = tokio::spawn(async move {
            let (mut served, mut longest) = (Instant::now(), Duration::ZERO);
            while stopped.try_recv() == Err(TryRecvError::Empty) {
                if let Ok(Ok(true)) = timeout(ANSWER, is_writable(&login)).await {
                    longest = longest.max(served.elapsed());
                    served = Instant::now();
                }
                sleep(PACE).await;
            }
            longest.max(served.elapsed())
        });
        Probe { stop, task }
    }

    /// Returns the longest time between two successful logins.
    pub async fn finish(self) -> Result<Duration> {
        // The task runs until it is aborted.
        let _ = self.stop.send(());
        Ok(self.task.await?)
    }
}

async fn is_writable(login: &Login) -> Result<bool> {
    let session = login.connect().await?;
    Ok(!session.query_one("SELECT pg_is_in_recovery()", &[]).await?.get::<_, bool>(0))
}
