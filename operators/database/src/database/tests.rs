//! What a Database reports while its server cannot be used.

use ahoi_api::DatabaseServer;
use ahoi_reconcile::testing::{ApiServer, ready, settled};

use super::*;
use crate::context::tests::{admin, context, database, server};
use crate::server::UNREACHABLE;

#[tokio::test]
async fn only_who_wants_something_of_a_server_that_is_away_says_that_it_is() {
    let api = ApiServer::new();
    let away = settled(server("pg-1"), Verdict::stalled(UNREACHABLE, "away"));
    let databases = Databases(Arc::new(context(&api, vec![away], vec![], vec![admin()])));
    let database = database();
    let mut settled = ready(database);
    let told = databases.reconcile(&settled).await.unwrap();
    assert_eq!(Some(&told.status), settled.status.as_ref());

    settled.metadata.generation = Some(2);
    let error = databases.reconcile(&settled).await.unwrap_err();
    assert_eq!(error.reason(), SERVER_UNREACHABLE);
    assert!(databases.is_told_by_the_server(&settled, "LoginRefused"));

    // A server that is Ready has nothing to tell: what it refuses is about this database.
    let here = Databases(Arc::new(context(&api, vec![ready(server("pg-1"))], vec![], vec![])));
    assert!(!here.is_told_by_the_server(&settled, "LoginRefused"));
    assert!(here.is_told_by_the_server(&settled, SERVER_UNREACHABLE), "it does not know yet");
}

/// The server says so itself at first; later each of its Databases does.
#[tokio::test]
async fn a_database_reports_an_outage_that_lasts() {
    let database = database();
    let after = async |seconds: i64, verdict: Verdict| {
        let mut away = settled(server("pg-1"), verdict);
        for condition in &mut away.status.get_or_insert_default().conditions {
            condition.last_transition_time = Time(Timestamp::now() - jiff::SignedDuration::from_secs(seconds));
        }
        let databases = Databases(Arc::new(context(&ApiServer::new(), vec![away], vec![], vec![admin()])));
        databases.reconcile(&ready(database.clone())).await.err().map(|error| error.reason().to_owned())
    };
    let unreachable = || Verdict::stalled(UNREACHABLE, "away");
    assert_eq!(after(50, unreachable()).await, None);
    assert_eq!(after(61, unreachable()).await.as_deref(), Some(SERVER_UNREACHABLE));
    assert_eq!(after(61, Verdict::stalled("DatabaseServerReadOnly", "standby")).await, None, "its customers go on");
}

/// What another object of this name left may be on it: an empty database elsewhere would hide that.
#[tokio::test]
async fn a_new_database_waits_for_a_server_that_may_keep_what_was_its_own() {
    let waits = async |server: DatabaseServer, secrets, sweep: Option<&[&str]>| {
        let databases = Databases(Arc::new(context(&ApiServer::new(), vec![server.clone()], vec![], secrets)));
        let database: Database = serde_saphyr::from_str(
            "
            apiVersion: internal.example.com/v1
            kind: Database
            metadata: {name: acme, namespace: customer-acme, uid: u, generation: 1}
            spec: {storage: 1gb}
            ",
        )
        .unwrap();
        if let Some(unclaimed) = sweep {
            let pool = databases.0.pool(&server).unwrap();
            let objects = unclaimed.iter().map(|name| databases.0.cluster.object("customer-acme", name));
            let mut memory = pool.memory.lock();
            (memory.is_swept, memory.unclaimed) = (true, objects.collect());
        }
        databases.reconcile(&database).await.unwrap_err().reason() == SERVER_UNREACHABLE
    };
    let keeps = |retained| {
        let mut away = settled(server("pg-1"), Verdict::stalled(UNREACHABLE, "away"));
        away.status.get_or_insert_default().retained = retained;
        away
    };
    assert!(waits(keeps(Some(1)), vec![admin()], None).await, "nobody knows what it keeps");
    assert!(waits(ready(keeps(Some(1))), vec![], None).await, "there is no login to ask it with");
    assert!(waits(keeps(Some(1)), vec![admin()], Some(&["acme"])).await);
    assert!(!waits(keeps(Some(1)), vec![admin()], Some(&["other"])).await, "it is known to keep another's");
    assert!(!waits(keeps(Some(0)), vec![admin()], None).await && !waits(keeps(None), vec![admin()], None).await);
}
