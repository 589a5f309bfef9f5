//! How long the server itself served no client, measured beside the pooler: what of a client's wait is not the pooler's.

use std::time::Duration;

use ahoi_e2e::postgres::Login;
use anyhow::Result;
use tokio::sync::oneshot::{self, error::TryRecvError};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

/// Between two attempts.
const PACE: Duration = Duration::from_millis(200);
/// A primary that is there answers faster, on a busy machine too.
const ANSWER: Duration = Duration::from_secs(2);

/// Logs in on the primary again and again, with a session of its own each time.
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

    /// The longest time between two logins that were served.
    pub async fn finish(self) -> Result<Duration> {
        // The task has not ended by itself.
        let _ = self.stop.send(());
        Ok(self.task.await?)
    }
}

async fn is_writable(login: &Login) -> Result<bool> {
    let session = login.connect().await?;
    Ok(!session.query_one("SELECT pg_is_in_recovery()", &[]).await?.get::<_, bool>(0))
}
