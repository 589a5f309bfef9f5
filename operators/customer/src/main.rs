//! The controllers of Customer and Plan: a Customer becomes a namespace, a database, a connection pool and workers.

use ahoi_customer::{Caches, CustomerController, PlanController};
use ahoi_reconcile::Platform;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    ahoi_reconcile::run("ahoi-customer", |platform: Platform| async move {
        let caches = Caches::start(&platform);
        Ok(vec![CustomerController::start(&platform, &caches), PlanController::start(&platform, &caches)])
    })
    .await
}
