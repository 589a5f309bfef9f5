//! The controller of CustomerNamespace: one object becomes a core Namespace with its guard rails.

use ahoi_namespace::{NamespaceController, NamespaceOptions};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    ahoi_reconcile::run_with("ahoi-namespace", |platform, options: NamespaceOptions| async move {
        Ok(vec![NamespaceController::start(&platform, options)])
    })
    .await
}
