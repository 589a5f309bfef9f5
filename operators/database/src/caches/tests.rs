use ahoi_api::Reason;
use ahoi_reconcile::Verdict;
use ahoi_reconcile::testing::{ApiServer, changed, ready, settled};

use super::*;
use crate::testing::{caches, secret, server};

#[test]
fn other_secrets_lose_their_data() {
    let binding = |type_: &str, bytes: usize| {
        let mut secret = secret("acme-database", &[("password", &"x".repeat(bytes))]);
        secret.type_ = Some(type_.to_owned());
        drop_other_data(&mut secret);
        secret.data.is_some()
    };
    assert!(binding(ahoi_api::BINDING_SECRET_TYPE, 1000));
    assert!(!binding(ahoi_api::BINDING_SECRET_TYPE, 1_000_000) && !binding("Opaque", 1000));
}

#[test]
fn counts_concern_no_database() {
    let before = ready(server("pg-1"));
    let mut counted = before.clone();
    counted.status.as_mut().unwrap().database_count = Some(7);
    assert_eq!(relevant(&before), relevant(&counted));
    let mut moved = before.clone();
    moved.spec.host = "other.example.com".into();
    let unreachable = settled(server("pg-1"), Verdict::stalled(Reason::DatabaseServerUnreachable, "unreachable"));
    assert_ne!(relevant(&before).to_all, relevant(&moved).to_all);
    assert_eq!(relevant(&before).to_all, relevant(&unreachable).to_all);
    assert_ne!(relevant(&before).to_waiting, relevant(&unreachable).to_waiting);
}

#[tokio::test]
async fn an_outage_triggers_only_databases_that_wait_for_the_server() {
    let database = |name: &str| -> Database {
        serde_saphyr::from_str(&format!(
            "
            apiVersion: internal.example.com/v1
            kind: Database
            metadata: {{name: {name}, namespace: customer-{name}, uid: {name}, generation: 1}}
            spec: {{storage: 1gb}}
            status: {{server: pg-1, databaseName: c_3f2504e04f89}}
            "
        ))
        .unwrap()
    };
    let names = |refs: Vec<ObjectRef<Database>>| {
        let mut names: Vec<String> = refs.into_iter().map(|reference| reference.name).collect();
        names.sort();
        names
    };
    let (reachable, unreachable) = (
        ready(server("pg-1")),
        settled(server("pg-1"), Verdict::stalled(Reason::DatabaseServerUnreachable, "unreachable")),
    );
    let mut moved = reachable.clone();
    moved.spec.port = 5433;
    let platform = ApiServer::new().platform();
    let caches = caches(&platform, vec![], vec![ready(database("settled")), database("waiting")], vec![]);
    let affected = caches.databases_of_server();
    let change = |server: &DatabaseServer| {
        changed(&caches.servers, server.clone());
        names(affected(server))
    };
    assert_eq!(change(&reachable), ["settled", "waiting"], "nothing is known yet");
    assert_eq!(change(&unreachable), ["waiting"]);
    assert_eq!(change(&reachable), ["waiting"]);
    assert_eq!(change(&moved), ["settled", "waiting"]);
}
