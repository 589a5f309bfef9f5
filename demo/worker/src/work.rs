//! The worker: processes tasks, serves its readiness, and stops between two tasks.

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

/// Delay of an idle worker before the next query. LISTEN does not work through pgbouncer.
const IDLE: Duration = Duration::from_millis(500);
/// First and longest delay after an error.
const BACKOFF: [Duration; 2] = [Duration::from_millis(500), Duration::from_secs(10)];
/// Duration of a task of the demo.
const TASK: Duration = Duration::from_millis(50);

/// Processes tasks until SIGTERM. Without a database, only waits: the controller replaces the pods when there is one.
pub async fn run(database: Option<PgPool>) -> anyhow::Result<()> {
    let stop = stop_on_signal()?;
    let ready = Arc::new(AtomicBool::new(database.is_none()));
    tokio::spawn(serve_readiness(ready.clone()));
    match database {
        Some(database) => {
            let worker = env::var("HOSTNAME").unwrap_or_else(|_| format!("pid-{}", std::process::id()));
            info!(worker, "started");
            work(&database, &worker, &ready, &stop).await;
            database.close().await;
        }
        None => {
            info!("no binding; idle");
            stop.cancelled().await;
        }
    }
    info!("stopped");
    Ok(())
}

async fn work(database: &PgPool, worker: &str, ready: &AtomicBool, stop: &CancellationToken) {
    let [first, longest] = BACKOFF;
    let mut backoff = first;
    // Checked again after an error, which may have been caused by a missing table.
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
                warn!(%error, "query failed; retrying");
                table = false;
                let now = backoff;
                backoff = longest.min(2 * now);
                now
            }
        };
        // Random, so that not all workers of all customers query at once.
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

/// Ready after the first answer of the database, and from then on: removing workers from service does not end an outage of the database.
async fn serve_readiness(ready: Arc<AtomicBool>) {
    let answer = move || async move {
        if ready.load(Ordering::Relaxed) { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
    };
    let router = Router::new().route("/readyz", get(answer));
    let served = async { axum::serve(TcpListener::bind("0.0.0.0:8080").await?, router).await };
    if let Err(error) = served.await {
        warn!(%error, "cannot serve readiness");
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
