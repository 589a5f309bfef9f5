//! The worker itself: asks for tasks, tells whether it is ready, and stops between two tasks.

use std::env;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use rand::Rng;
use sqlx::PgPool;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::tasks::{self, Task};

/// How long an idle worker waits before it asks again. LISTEN would tell at once, and does not work through a pooler.
const IDLE: Duration = Duration::from_millis(500);
/// How long a worker waits after an error, at first and at most.
const BACKOFF: [Duration; 2] = [Duration::from_millis(500), Duration::from_secs(10)];
/// What a task of the demo takes.
const TASK: Duration = Duration::from_millis(50);

/// Works until SIGTERM. Without a database there is nothing to do and nothing to wait for: once one is bound, the pods
/// are replaced.
pub async fn run(database: Option<PgPool>) -> anyhow::Result<()> {
    let stop = stop_on_signal()?;
    let ready = Arc::new(AtomicBool::new(database.is_none()));
    tokio::spawn(tell_readiness(ready.clone()));
    match database {
        Some(database) => {
            let worker = env::var("HOSTNAME").unwrap_or_else(|_| format!("pid-{}", std::process::id()));
            info!(worker, "at work");
            work(&database, &worker, &ready, &stop).await;
            database.close().await;
        }
        None => {
            info!("no database is bound; idle");
            stop.cancelled().await;
        }
    }
    info!("stopped");
    Ok(())
}

async fn work(database: &PgPool, worker: &str, ready: &AtomicBool, stop: &CancellationToken) {
    let [first, longest] = BACKOFF;
    let mut backoff = first;
    // Also after an error: the table may have been part of what broke.
    let mut table = false;
    while !stop.is_cancelled() {
        let outcome = match table {
            true => tasks::take(database, worker, finish).await,
            false => tasks::create_table(database).await.map(|()| true),
        };
        let pause = match outcome {
            Ok(found) => {
                if !ready.swap(true, Ordering::Relaxed) {
                    info!("ready");
                }
                (table, backoff) = (true, first);
                if found { Duration::ZERO } else { IDLE }
            }
            Err(error) => {
                warn!(%error, "the database does not answer as it should; trying again");
                table = false;
                let now = backoff;
                backoff = longest.min(2 * now);
                now
            }
        };
        // Spread, or all workers of all customers would ask at once.
        let pause = pause.mul_f64(rand::rng().random_range(0.7..1.3));
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = stop.cancelled() => {}
        }
    }
}

async fn finish(task: Task) {
    tokio::time::sleep(TASK).await;
    info!(id = task.id, payload = task.payload, "done");
}

/// Ready once the database has answered, and from then on: an outage of the database is not cured by taking its workers
/// out of service.
async fn tell_readiness(ready: Arc<AtomicBool>) {
    let answer = move || async move {
        if ready.load(Ordering::Relaxed) { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
    };
    let router = Router::new().route("/readyz", get(answer));
    let served = async { axum::serve(TcpListener::bind("0.0.0.0:8080").await?, router).await };
    if let Err(error) = served.await {
        warn!(%error, "readiness is not told");
    }
}

fn stop_on_signal() -> anyhow::Result<CancellationToken> {
    let stop = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate())?;
    let token = stop.clone();
    tokio::spawn(async move {
        terminate.recv().await;
        token.cancel();
    });
    Ok(stop)
}
