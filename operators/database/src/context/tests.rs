use ahoi_reconcile::Verdict;
use ahoi_reconcile::testing::{ApiServer, changed, ready, settled};

use super::*;
use crate::testing::{context, secret, server};

#[tokio::test]
async fn unusable_servers_are_explained() {
    let admin = || secret("admin", &[("username", "postgres"), ("password", "x")]);
    let why = |servers, secrets| {
        let context = context(&ApiServer::new(), servers, vec![], secrets);
        context.usable("pg-1").err().map(|error| (error.reason().to_owned(), error.to_string()))
    };
    let reason = |servers, secrets| why(servers, secrets).map(|(reason, _)| reason);
    assert_eq!(reason(vec![], vec![admin()]).as_deref(), Some("DatabaseServerNotFound"));
    assert_eq!(reason(vec![server("pg-1")], vec![admin()]).as_deref(), Some("WaitingForDatabaseServer"));
    assert_eq!(reason(vec![ready(server("pg-1"))], vec![]).as_deref(), Some("SecretNotFound"));
    assert_eq!(reason(vec![ready(server("pg-1"))], vec![secret("admin", &[])]).as_deref(), Some("SecretIncomplete"));
    assert_eq!(reason(vec![ready(server("pg-1"))], vec![admin()]), None);

    let mut elsewhere = ready(server("pg-1"));
    elsewhere.spec.admin_secret_ref.namespace = "customer-acme".into();
    assert_eq!(reason(vec![elsewhere], vec![admin()]).as_deref(), Some("SecretNamespaceNotAllowed"));

    // However it is found, a Database reports the same, so that the status is written once.
    let down = settled(server("pg-1"), Verdict::stalled(Reason::DatabaseServerUnreachable, "unreachable"));
    let found = why(vec![down], vec![admin()]).unwrap();
    assert_eq!(found, (unreachable("pg-1").reason().to_owned(), unreachable("pg-1").to_string()));
}

/// A changed password is used by the next reconcile, without a restart, and triggers the server.
#[tokio::test]
async fn another_admin_secret_replaces_the_connections() {
    let admin = |password| secret("admin", &[("username", "postgres"), ("password", password)]);
    let context = context(&ApiServer::new(), vec![ready(server("pg-1"))], vec![], vec![admin("old")]);
    let (_, old) = context.usable("pg-1").unwrap();
    assert!(Arc::ptr_eq(&old.postgres, &context.usable("pg-1").unwrap().1.postgres), "the same for one login");
    changed(&context.caches.secrets, admin("new"));
    let (_, new) = context.usable("pg-1").unwrap();
    assert!(!Arc::ptr_eq(&old.postgres, &new.postgres));
    assert!(Arc::ptr_eq(&old.memory, &new.memory), "what was found on the server is still true");
    let mut moved = ready(server("pg-1"));
    moved.spec.host = "elsewhere.example.com".into();
    changed(&context.caches.servers, moved);
    assert!(!Arc::ptr_eq(&new.memory, &context.usable("pg-1").unwrap().1.memory), "it is another server");
    let triggered = context.caches.servers_of_secret()(&admin("new"));
    assert_eq!(triggered.iter().map(|server| server.name.as_str()).collect::<Vec<_>>(), ["pg-1"]);
    assert!(context.caches.servers_of_secret()(&secret("other", &[])).is_empty());
}
