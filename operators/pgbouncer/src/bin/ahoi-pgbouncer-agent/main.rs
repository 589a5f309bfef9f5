//! The agent beside one pgbouncer: it runs it, tells it what to serve, and says what is proved.

mod agent;
mod drain;
mod files;
mod metrics;
mod states;
mod supervise;
mod tls;
mod voice;

use ahoi_reconcile::run_with;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    run_with("ahoi-pgbouncer-agent", |platform, options: agent::Options| async move {
        Ok(vec![agent::start(&platform, options)?])
    })
    .await
}
