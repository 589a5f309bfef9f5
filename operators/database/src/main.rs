//! The controller of DatabaseServer and Database: PostgreSQL databases that are safe to share a server with.

mod context;
mod database;
mod metrics;
mod outage;
mod pending;
mod placement;
mod postgres;
mod quota;
mod remembered;
mod renewal;
mod secret;
mod server;
mod verifiers;

use std::sync::Arc;

use ahoi_api::{ConnectionPool, Database};
use ahoi_reconcile::{Controller, ObjectRef, Platform, Runnable};
use clap::Args;
use kube::ResourceExt;

use crate::context::{Caches, Context};
use crate::database::Databases;
use crate::server::Servers;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    ahoi_reconcile::run_with("ahoi-database", setup).await
}

/// What this process is told at its start.
#[derive(Args, Clone, Debug)]
struct Options {
    /// How many customers have metrics of their own: those whose databases are fullest
    #[arg(long, env = "TOP_CUSTOMERS", default_value_t = 20)]
    top_customers: usize,
    /// Whether PostgreSQL may log what this process runs as it logs other sessions; some statements set SCRAM verifiers
    #[arg(long, env = "LOG_STATEMENTS")]
    log_statements: bool,
}

/// The Database whose former login a pool has let go of; everything else about a pool is no news to it.
fn database_of(pool: &ConnectionPool) -> Option<ObjectRef<Database>> {
    pool.status.as_ref()?.unused_login.as_ref()?;
    Some(ObjectRef::new(&pool.spec.database_ref.name).within(&pool.namespace()?))
}

async fn setup(platform: Platform, options: Options) -> anyhow::Result<Vec<Runnable>> {
    // PostgreSQL is what bounds this work, so a second process would be no faster.
    platform
        .require_one_partition("where databases are placed, and what a sweep has found of them, is in one memory")?;
    let caches = Caches::new(&platform);
    let servers = Controller::new(&platform, &caches.servers)
        .watches(&caches.secrets, caches.servers_of_secret())
        .watches(&caches.fleets, server::servers_of_fleet(&caches.fleets));
    let databases = Controller::new(&platform, &caches.databases)
        .owns(&caches.bindings)
        .watches(&caches.servers, caches.databases_of_server())
        .watches(&caches.pools, |pool: &ConnectionPool| database_of(pool))
        .watches(&caches.secrets, caches.databases_of_secret());
    let context = Arc::new(Context::new(platform, caches, databases.trigger(), &options).await?);
    Ok(vec![servers.run(Servers(context.clone())), databases.run(Databases(context))])
}
