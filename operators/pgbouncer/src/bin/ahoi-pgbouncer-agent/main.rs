//! The agent beside one pgbouncer: it runs it, tells it what to serve, and says what is proved.

mod agent;
mod budgets;
mod canary;
mod drain;
mod files;
mod holds;
mod limits;
mod metrics;
mod server;
mod states;
mod supervise;
mod tls;
mod top;
mod turns;
mod verifiers;
mod voice;

use ahoi_reconcile::run_with;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    run_with("ahoi-pgbouncer-agent", |platform, options: agent::Options| async move {
        Ok(vec![agent::start(&platform, options)?])
    })
    .await
}
