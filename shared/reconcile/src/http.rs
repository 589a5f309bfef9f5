//! `/livez`, `/readyz` and `/metrics`.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context;
use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tracing::info;

use crate::platform::Platform;

/// The stage of a process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Setting up.
    #[default]
    Starting,
    /// Waiting for the Lease. It is ready, since a rolling update waits for that.
    Standby,
    /// Holds the Lease; ready when its caches are complete.
    Leading,
}

/// The stage of the process, shared with the server.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stages(Arc<Mutex<Stage>>);

impl Stages {
    pub(crate) fn enter(&self, stage: Stage) {
        *self.0.lock() = stage;
    }

    #[cfg(test)]
    pub(crate) fn leading() -> Self {
        let stages = Stages::default();
        stages.enter(Stage::Leading);
        stages
    }

    pub(crate) fn at(&self, stage: Stage) -> bool {
        *self.0.lock() == stage
    }
}

/// Serves until the process ends. Returns an error if the address is in use.
pub(crate) async fn serve(address: SocketAddr, platform: Platform, stages: Stages) -> anyhow::Result<()> {
    let listener = TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))?;
    info!(address = %listener.local_addr()?, "serving /livez, /readyz and /metrics");
    let router = router(platform.clone(), stages);
    platform.spawn("the HTTP server".to_owned(), async move {
        let _ = axum::serve(listener, router).await;
    });
    Ok(())
}

pub(crate) fn router(platform: Platform, stages: Stages) -> Router {
    let ready = platform.clone();
    Router::new()
        .route("/livez", get(|| async { "ok" }))
        .route("/readyz", get(move || async move { readiness(&ready, &stages) }))
        .route("/metrics", get(move || async move { metrics(&platform) }))
}

pub(crate) fn readiness(platform: &Platform, stages: &Stages) -> (StatusCode, String) {
    if stages.at(Stage::Starting) {
        return (StatusCode::SERVICE_UNAVAILABLE, "starting".to_owned());
    }
    if !stages.at(Stage::Standby) {
        let missing = platform.missing_lists();
        if !missing.is_empty() {
            let overdue = platform.overdue().map(|working| format!(", overdue after {} s", working.as_secs()));
            let text = format!("waiting for the list of {}{}", missing.join(", "), overdue.unwrap_or_default());
            return (StatusCode::SERVICE_UNAVAILABLE, text);
        }
        let unmet = platform.unmet();
        if !unmet.is_empty() {
            return (StatusCode::SERVICE_UNAVAILABLE, format!("waiting for {}", unmet.join(", ")));
        }
    }
    (StatusCode::OK, "ok".to_owned())
}

fn metrics(platform: &Platform) -> Result<impl IntoResponse + use<>, StatusCode> {
    let text = platform.encode_metrics().map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
    Ok(([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text))
}
