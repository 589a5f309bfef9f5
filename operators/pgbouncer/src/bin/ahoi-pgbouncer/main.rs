//! The controller of PgBouncer and ConnectionPool.

mod fleet;
mod placement;
mod pool;
mod shared;

use ahoi_reconcile::run_with;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    run_with("ahoi-pgbouncer", |platform, options: fleet::Options| async move {
        platform
            .require_one_partition("a fleet has one that looks after it and its pools, and gives places in it away")?;
        let shared = shared::Shared::new(&platform);
        Ok(vec![fleet::start(&platform, &shared, options), pool::start(&platform, &shared)])
    })
    .await
}
