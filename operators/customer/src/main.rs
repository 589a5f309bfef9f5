//! The controller of Customer and Plan: one Customer becomes a namespace, a database, a pool and workers.

use ahoi_customer::CustomerController;
use ahoi_reconcile::Platform;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    ahoi_reconcile::run("ahoi-customer", |platform: Platform| async move { Ok(CustomerController::start(&platform)) })
        .await
}
