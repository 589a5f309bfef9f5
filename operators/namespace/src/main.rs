//! The controller of CustomerNamespace, which creates the Namespace of a customer with its guard rails.

use ahoi_namespace::{NamespaceController, NamespaceOptions};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    ahoi_reconcile::run_with("ahoi-namespace", |platform, options: NamespaceOptions| async move {
        Ok(vec![NamespaceController::start(&platform, options)])
    })
    .await
}
