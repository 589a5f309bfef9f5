use ahoi_api::DatabaseServerStatus;
use ahoi_reconcile::testing::ApiServer;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::*;
use crate::testing::{context, server};

fn deleted(since: SignedDuration, passwords: Passwords) -> DatabaseServer {
    let mut server = server("pg-1");
    server.metadata.deletion_timestamp = Some(Time(Timestamp::now() - since));
    server.status = Some(DatabaseServerStatus { passwords: Some(passwords), ..DatabaseServerStatus::default() });
    server
}

/// Its admin Secret was deleted as well.
#[tokio::test]
async fn an_unusable_server_does_not_block_deletion() {
    let context = context(&ApiServer::new(), vec![], vec![], vec![]);
    remove(&context, &deleted(SignedDuration::ZERO, Passwords::Lookup)).await.unwrap();
}

#[test]
fn an_unreachable_server_blocks_deletion_for_a_minute() {
    assert!(!has_waited(&deleted(SignedDuration::from_secs(50), Passwords::Lookup)));
    assert!(has_waited(&deleted(SignedDuration::from_secs(70), Passwords::Lookup)));
}
