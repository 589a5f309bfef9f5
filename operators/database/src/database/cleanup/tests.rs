use ahoi_reconcile::testing::{ApiServer, ready, unreadable};

use super::*;
use crate::testing::{context, secret, server};

fn database(status: &str, policy: &str, deleted_ago: Duration) -> Database {
    let deleted = Timestamp::now() - deleted_ago;
    serde_saphyr::from_str(&format!(
        "
        apiVersion: internal.example.com/v1
        kind: Database
        metadata: {{name: acme, namespace: customer-acme, uid: u, deletionTimestamp: \"{deleted}\"}}
        spec: {{storage: 1gb, deletionPolicy: {policy}}}
        status: {status}
        "
    ))
    .unwrap()
}

const PLACED: &str = "{server: pg-1, databaseName: c_3f2504e04f89, login: c_3f2504e04f89_a}";

#[tokio::test]
async fn a_database_that_was_never_created_needs_no_cleanup() {
    let context = context(&ApiServer::new(), vec![], vec![], vec![]);
    assert!(cleanup(&context, &database("{}", "Delete", Duration::ZERO)).await.is_ok());
}

#[tokio::test]
async fn a_deleted_server_does_not_block_deletion() {
    let context = context(&ApiServer::new(), vec![], vec![], vec![]);
    assert!(cleanup(&context, &database(PLACED, "Delete", Duration::ZERO)).await.is_ok());
}

#[tokio::test]
async fn an_unreadable_server_is_not_a_deleted_one() {
    let context = context(&ApiServer::new(), vec![], vec![], vec![]);
    unreadable(&context.caches.servers, &server("pg-1"));
    for policy in ["Retain", "Delete"] {
        let outcome = cleanup(&context, &database(PLACED, policy, Duration::from_secs(30))).await;
        assert!(matches!(&outcome, Err(Error::Waiting { reason, .. }) if reason == "Unreadable"), "{outcome:?}");
    }
}

/// The server lacks its admin Secret.
#[tokio::test]
async fn an_unusable_server_postpones_the_removal() {
    let api = ApiServer::new();
    let context = context(&api, vec![api.put(&server("pg-1"))], vec![], vec![]);
    api.take_requests();
    for policy in ["Retain", "Delete", "Archive"] {
        let waiting = cleanup(&context, &database(PLACED, policy, Duration::ZERO)).await;
        assert!(matches!(waiting, Err(Error::Waiting { .. })), "{waiting:?}");
    }
    assert!(cleanup(&context, &database(PLACED, "Retain", Duration::from_secs(30))).await.is_ok());
    let server = context.caches.servers.get("pg-1").unwrap();
    assert_eq!(pending::count(&context, "pg-1"), 1, "its logins must be closed");
    let heir = database("{}", "Retain", Duration::ZERO);
    assert!(pending::is_kept(&server, &heir) && !pending::is_pending(&server, &heir), "an heir adopts it");
    for _ in 0..2 {
        assert!(cleanup(&context, &database(PLACED, "Delete", Duration::from_secs(30))).await.is_ok());
    }
    let server = context.caches.servers.get("pg-1").unwrap();
    let removals = &server.status.as_ref().unwrap().pending_removals;
    let removal = removals.first().unwrap();
    assert_eq!((removals.len(), removal.database.as_str(), removal.uid.as_str()), (1, "c_3f2504e04f89", "u"));
    assert_eq!(removal.policy, DeletionPolicy::Delete);
    assert_eq!(
        removal.message.as_deref(),
        Some(
            "Secret ahoi-system/admin of DatabaseServer pg-1 does not exist: create it with username and password of the admin role"
        ),
        "the obstacle"
    );
    assert!(pending::is_pending(&server, &database("{}", "Retain", Duration::ZERO)), "an heir does not adopt it");
}

/// It is Ready, and refuses this removal only.
#[tokio::test]
async fn a_refusing_server_does_not_block_deletion() {
    let api = ApiServer::new();
    let context = context(&api, vec![api.put(&ready(server("pg-1")))], vec![], vec![]);
    assert!(cleanup(&context, &database(PLACED, "Delete", Duration::ZERO)).await.is_err());
    assert!(cleanup(&context, &database(PLACED, "Delete", Duration::from_secs(30))).await.is_ok());
    assert_eq!(context.caches.servers.get("pg-1").unwrap().status.as_ref().unwrap().pending_removals.len(), 1);
}

/// Its status is Ready, but it does not answer: it may be restarting.
#[tokio::test]
async fn one_broken_connection_postpones_nothing() {
    let admin = secret("admin", &[("username", "postgres"), ("password", "x")]);
    let mut here = ready(server("pg-1"));
    (here.spec.host, here.spec.port) = ("127.0.0.1".to_owned(), 1);
    let context = context(&ApiServer::new(), vec![here], vec![], vec![admin]);
    let outcome = cleanup(&context, &database(PLACED, "Retain", Duration::from_secs(30))).await;
    assert!(matches!(outcome, Err(Error::Waiting { .. })), "{outcome:?}");
}
