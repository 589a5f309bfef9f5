//! What a Database reports while its server is unusable.

use ahoi_api::DatabaseServer;
use ahoi_reconcile::testing::{ApiServer, ready, settled};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::*;
use crate::testing::{admin, context, database, server};

#[tokio::test]
async fn only_a_changed_database_reports_an_outage_at_once() {
    let api = ApiServer::new();
    let down = settled(server("pg-1"), Verdict::stalled(Reason::DatabaseServerUnreachable, "unreachable"));
    let databases = DatabaseController(Arc::new(context(&api, vec![down], vec![], vec![admin()])));
    let database = database();
    let mut settled = ready(database);
    let progress = databases.reconcile(&settled).await.unwrap();
    assert_eq!(Some(&progress.status), settled.status.as_ref());

    settled.metadata.generation = Some(2);
    let error = databases.reconcile(&settled).await.unwrap_err();
    assert_eq!(error.reason(), Reason::DatabaseServerUnreachable);
    assert!(databases.server_reports(&settled, "LoginRefused"));

    // What a Ready server refuses is about this database.
    let reachable = DatabaseController(Arc::new(context(&api, vec![ready(server("pg-1"))], vec![], vec![])));
    assert!(!reachable.server_reports(&settled, "LoginRefused"));
    assert!(
        reachable.server_reports(&settled, Reason::DatabaseServerUnreachable.as_str()),
        "the server has not found it yet"
    );
}

/// At first only the server reports it.
#[tokio::test]
async fn a_database_reports_an_outage_that_lasts() {
    let database = database();
    let after = async |seconds: i64, verdict: Verdict| {
        let mut down = settled(server("pg-1"), verdict);
        for condition in &mut down.status.get_or_insert_default().conditions {
            condition.last_transition_time = Time(Timestamp::now() - jiff::SignedDuration::from_secs(seconds));
        }
        let databases = DatabaseController(Arc::new(context(&ApiServer::new(), vec![down], vec![], vec![admin()])));
        databases.reconcile(&ready(database.clone())).await.err().map(|error| error.reason().to_owned())
    };
    let unreachable = || Verdict::stalled(Reason::DatabaseServerUnreachable, "unreachable");
    assert_eq!(after(50, unreachable()).await, None);
    assert_eq!(after(61, unreachable()).await.as_deref(), Some(Reason::DatabaseServerUnreachable.as_str()));
    assert_eq!(after(61, Verdict::stalled("DatabaseServerReadOnly", "standby")).await, None, "customers are served");
}

/// An empty database on another server would hide the data of an earlier object of this name.
#[tokio::test]
async fn a_new_database_waits_for_a_server_that_may_have_its_data() {
    let waits = async |server: DatabaseServer, secrets, sweep: Option<&[&str]>| {
        let databases = DatabaseController(Arc::new(context(&ApiServer::new(), vec![server.clone()], vec![], secrets)));
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
            let instance = databases.0.instance(&server).unwrap();
            let objects = unclaimed.iter().map(|name| databases.0.cluster.object("customer-acme", name));
            let mut memory = instance.memory.lock();
            (memory.is_swept, memory.unclaimed) = (true, objects.collect());
        }
        databases.reconcile(&database).await.unwrap_err().reason() == Reason::DatabaseServerUnreachable
    };
    let keeps = |retained| {
        let mut down = settled(server("pg-1"), Verdict::stalled(Reason::DatabaseServerUnreachable, "unreachable"));
        down.status.get_or_insert_default().retained_database_count = retained;
        down
    };
    assert!(waits(keeps(Some(1)), vec![admin()], None).await, "no sweep has found what it has");
    assert!(waits(ready(keeps(Some(1))), vec![], None).await, "it has no admin Secret");
    assert!(waits(keeps(Some(1)), vec![admin()], Some(&["acme"])).await);
    assert!(!waits(keeps(Some(1)), vec![admin()], Some(&["other"])).await, "it has data of another object");
    assert!(!waits(keeps(Some(0)), vec![admin()], None).await && !waits(keeps(None), vec![admin()], None).await);
}
