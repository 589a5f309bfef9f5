//! The controllers of DatabaseServer and Database: PostgreSQL databases that share servers safely.
//!
//! Three floors: [`postgres`] knows SQL and no Kubernetes; [`database`] and [`server`] are one controller each and do not know each
//! other; what both need is between them and [`context`].

mod caches;
mod context;
mod database;
mod endpoint;
mod growth;
mod memory;
mod metrics;
mod object;
mod outage;
mod pending;
mod placement;
mod postgres;
mod quota;
mod remembered;
mod removal;
mod rotation;
mod secret;
mod server;
#[cfg(test)]
mod testing;
mod verifiers;

use std::sync::Arc;

use ahoi_reconcile::{Platform, Runnable};
use clap::Args;

use crate::caches::Caches;
use crate::context::Context;
use crate::database::DatabaseController;
use crate::metrics::Metrics;
use crate::server::DatabaseServerController;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    ahoi_reconcile::run_with("ahoi-database", setup).await
}

/// Command line options.
#[derive(Args, Clone, Debug)]
struct Options {
    /// Number of customers with metrics of their own: those with the fullest databases
    #[arg(long, env = "TOP_CUSTOMERS", default_value_t = 20)]
    top_customers: usize,
    /// Allow PostgreSQL to log the statements of this process as those of other sessions; some of them set SCRAM verifiers
    #[arg(long, env = "LOG_STATEMENTS")]
    log_statements: bool,
}

async fn setup(platform: Platform, options: Options) -> anyhow::Result<Vec<Runnable>> {
    // PostgreSQL limits this work: a second process would not be faster.
    platform.require_one_partition("recent placements and the findings of sweeps are kept in memory")?;
    let caches = Caches::new(&platform);
    let servers = DatabaseServerController::watch(&platform, &caches);
    let databases = DatabaseController::watch(&platform, &caches);
    let metrics = Metrics::new(&platform, options.top_customers);
    let context = Context::new(platform, caches, databases.trigger(), metrics, options.log_statements).await?;
    let context = Arc::new(context);
    Ok(vec![servers.run(DatabaseServerController(context.clone())), databases.run(DatabaseController(context))])
}
