//! The controller of DatabaseServer and Database: PostgreSQL databases that are safe to share a server with.

mod context;
mod database;
mod metrics;
mod quota;
mod scram;
mod secret;
mod server;

use std::sync::Arc;

use ahoi_reconcile::{Controller, Platform, Runnable};

use crate::context::{Caches, Context};
use crate::database::Databases;
use crate::server::Servers;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    ahoi_reconcile::run("ahoi-database", setup).await
}

async fn setup(platform: Platform) -> anyhow::Result<Vec<Runnable>> {
    // PostgreSQL is what bounds this work, so a second process would be no faster.
    platform.undivided("where databases are placed, and what a sweep has found of them, is in one memory")?;
    let caches = Caches::new(&platform);
    let servers = Controller::new(&platform, &caches.servers).watches(&caches.secrets, caches.servers_of_secret());
    let databases = Controller::new(&platform, &caches.databases)
        .owns(&caches.bindings)
        .watches(&caches.servers, caches.databases_of_server());
    let context = Arc::new(Context::new(platform, caches, databases.waker()).await?);
    Ok(vec![servers.run(Servers(context.clone())), databases.run(Databases(context))])
}
