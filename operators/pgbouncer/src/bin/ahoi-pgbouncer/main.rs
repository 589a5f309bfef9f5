//! The controller of PgBouncer and ConnectionPool.

mod fleet;
mod placement;
mod pool;
mod shared;

use ahoi_reconcile::run_with;
use fleet::{FleetController, Options};
use pool::PoolController;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    run_with("ahoi-pgbouncer", |platform, options: Options| async move {
        platform.require_one_partition("one replica assigns the shards of all pools")?;
        let shared = shared::Shared::new(&platform);
        Ok(vec![FleetController::start(&platform, &shared, options), PoolController::start(&platform, &shared)])
    })
    .await
}
