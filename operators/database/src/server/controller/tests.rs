use ahoi_reconcile::testing::ApiServer;

use super::*;
use crate::testing::{context, server};

/// No watch reports a corrected password or certificate, and every database on the server waits for it.
#[tokio::test]
async fn a_refusing_server_is_retried_soon_and_its_maintenance_ends() {
    let mut refusing = server("pg-1");
    let withdrawn =
        r#"{"request": "now", "state": "Pausing", "until": "2026-01-01T00:00:00Z", "serverStarted": "then"}"#;
    let status = refusing.status.get_or_insert_default();
    status.maintenance = Some(serde_json::from_str(withdrawn).unwrap());
    let servers =
        DatabaseServerController(Arc::new(context(&ApiServer::new(), vec![refusing.clone()], vec![], vec![])));
    let progress = servers.reconcile(&refusing).await.unwrap();
    let stalled = conditions::find(&progress.status.conditions, conditions::STALLED).unwrap();
    assert_eq!((stalled.reason.as_str(), progress.requeue), ("SecretNotFound", Some(RETRY_REFUSED)));
    assert!(progress.status.maintenance.is_none_or(|maintenance| !maintenance.state.is_underway()));
}
