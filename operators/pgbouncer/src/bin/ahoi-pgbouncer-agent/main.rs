//! The agent of one pgbouncer process: it runs pgbouncer, writes its files, reloads it, and reports what is proved.

mod agent;
mod budgets;
mod drain;
mod files;
mod holds;
mod limits;
mod metrics;
mod options;
mod pool_states;
mod probe;
mod reload_stagger;
mod server;
mod status_reporter;
mod supervise;
mod tls;
mod top;
mod verifiers;

use agent::Agent;
use ahoi_reconcile::run_with;
use options::Options;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    run_with(
        "ahoi-pgbouncer-agent",
        |platform, options: Options| async move { Ok(vec![Agent::start(&platform, options)?]) },
    )
    .await
}
