use std::sync::Arc;

use ahoi_api::{
    Binding, ConnectionPool, Customer, CustomerNamespace, Database, FeatureState, PoolState, Reason, RunPolicy,
    Scheduler,
};
use ahoi_reconcile::conditions::ConditionStatus;
use ahoi_reconcile::{Conditioned, Verdict, conditions};
use serde_json::json;

use super::chain::Chain;
use super::connection_pool::ConnectionPoolFeature;
use super::converge::{mirrored, outage};
use super::database::DatabaseFeature;
use super::feature::{Desired, Feature, with_fields_of_the_customer};
use super::namespace::NamespaceFeature;
use super::report::state_of;
use super::scheduler::SchedulerFeature;
use crate::resolve::{PlanChoice, resolve};
use crate::wanted::Wanted;

fn wanted(features: serde_json::Value) -> Wanted {
    let spec = json!({ "features": features });
    let customer = Customer::new("acme", serde_json::from_value(spec).unwrap());
    resolve(&customer, PlanChoice::BuiltIn, &Chain::default(), "ahoi-system")
}

fn suspended(features: serde_json::Value) -> Wanted {
    let spec = json!({ "runPolicy": "Suspended", "features": features });
    let customer = Customer::new("acme", serde_json::from_value(spec).unwrap());
    resolve(&customer, PlanChoice::BuiltIn, &Chain::default(), "ahoi-system")
}

fn with_verdict<C: Conditioned>(mut child: C, verdict: Verdict) -> Arc<C> {
    child.meta_mut().generation = Some(3);
    let mut status = child.status().cloned().unwrap_or_default();
    *C::observed_generation_mut(&mut status) = Some(3);
    conditions::set_verdict(C::conditions_mut(&mut status), 3, verdict);
    child.set_status(status);
    Arc::new(child)
}

fn ready<C: Conditioned>(child: C) -> Arc<C> {
    with_verdict(child, Verdict::ready("it is"))
}

fn child<F: Feature>(wanted: &Wanted, chain: &Chain) -> F::Child {
    match F::desired(wanted, chain) {
        Desired::Child(child) => *child,
        other => panic!("no child but {other:?}"),
    }
}

fn waits_for_namespace<F: Feature>(wanted: &Wanted, chain: &Chain) -> bool {
    matches!(F::desired(wanted, chain), Desired::Wait { reason: Reason::WaitingForNamespace, .. })
}

/// The chain of a customer whose database and pool are ready.
fn chain(wanted: &Wanted) -> Chain {
    let mut chain = Chain::default();
    chain.namespace = Some(ready(child::<NamespaceFeature>(wanted, &chain)));
    let mut database: Database = child::<DatabaseFeature>(wanted, &chain);
    database.status.get_or_insert_default().binding =
        Some(Binding { name: "acme-database".into(), version: "1".into() });
    chain.database = Some(ready(database));
    let mut pool: ConnectionPool = child::<ConnectionPoolFeature>(wanted, &chain);
    pool.status.get_or_insert_default().binding = Some(Binding { name: "acme-pool".into(), version: "1".into() });
    chain.connection_pool = Some(ready(pool));
    chain
}

/// While a pool moves, clients connect to both fleets. A disabled pool closes the network when it no longer exists.
#[test]
fn a_namespace_reaches_the_fleets_with_a_pool_of_the_customer() {
    let fleets = |wanted: &Wanted, chain: &Chain| child::<NamespaceFeature>(wanted, chain).spec.fleets;
    assert_eq!(fleets(&wanted(json!({})), &Chain::default()), [""; 0]);
    assert_eq!(fleets(&wanted(all()), &Chain::default()), ["global"]);

    let moving = json!({"database": {"enabled": true},
        "connectionPool": {"pgBouncerRef": {"namespace": "ahoi-system", "name": "other"}}});
    let mut chain = chain(&wanted(all()));
    assert_eq!(fleets(&wanted(moving.clone()), &chain), ["global", "other"]);
    let mut pool = child::<ConnectionPoolFeature>(&wanted(moving.clone()), &chain);
    let place = |fleet: &str| json!({"fleet": {"namespace": "ahoi-system", "name": fleet}, "shard": 0});
    let former = json!([{"place": place("global"), "state": "Left", "since": "2026-01-01T00:00:00Z"}]);
    pool.status = serde_json::from_value(json!({"place": place("other"), "formerPlaces": former})).unwrap();
    chain.connection_pool = Some(Arc::new(pool.clone()));
    assert_eq!(fleets(&wanted(moving.clone()), &chain), ["global", "other"]);
    pool.status.as_mut().unwrap().former_places.clear();
    chain.connection_pool = Some(Arc::new(pool));
    assert_eq!(fleets(&wanted(moving), &chain), ["other"]);
    assert_eq!(fleets(&wanted(json!({})), &chain), ["other"], "its clients are still connected");
}

fn all() -> serde_json::Value {
    json!({"database": {"enabled": true}, "scheduler": {"enabled": true, "image": "worker:1", "workers": 2}})
}

fn bound(scheduler: &Scheduler) -> Option<&str> {
    scheduler.spec.binding.as_ref().map(|b| b.name.as_str())
}

#[test]
fn the_children_of_a_customer() {
    let wanted = wanted(all());
    let chain = chain(&wanted);
    insta::assert_yaml_snapshot!("namespace", child::<NamespaceFeature>(&wanted, &chain));
    insta::assert_yaml_snapshot!("database", child::<DatabaseFeature>(&wanted, &chain));
    insta::assert_yaml_snapshot!("connection_pool", child::<ConnectionPoolFeature>(&wanted, &chain));
    insta::assert_yaml_snapshot!("scheduler", child::<SchedulerFeature>(&wanted, &chain));
}

#[test]
fn features_wait_for_those_they_depend_on() {
    let wanted = wanted(all());
    let nothing = Chain::default();
    let waits = |desired: Desired<_>| matches!(desired, Desired::<Database>::Wait { .. });
    assert!(waits(DatabaseFeature::desired(&wanted, &nothing)));
    let mut chain = chain(&wanted);
    let database = chain.database.take();
    chain.connection_pool = None;
    assert!(matches!(
        ConnectionPoolFeature::desired(&wanted, &chain),
        Desired::Wait { reason: Reason::WaitingForDatabase, .. }
    ));
    chain.database = database;
    assert!(matches!(
        SchedulerFeature::desired(&wanted, &chain),
        Desired::Wait { reason: Reason::WaitingForConnectionPool, .. }
    ));
}

#[test]
fn existing_children_do_not_wait_for_the_namespace() {
    let running = wanted(all());
    let mut chain = chain(&running);
    chain.scheduler = Some(ready(child::<SchedulerFeature>(&running, &chain)));
    let namespace: CustomerNamespace = (**chain.namespace.as_ref().unwrap()).clone();
    chain.namespace =
        Some(with_verdict(namespace, Verdict::stalled(Reason::NameConflict, "it belongs to another owner")));

    let suspended = suspended(all());
    assert_eq!(child::<ConnectionPoolFeature>(&suspended, &chain).spec.state, PoolState::Disabled);
    assert_eq!(child::<SchedulerFeature>(&suspended, &chain).spec.run_policy, RunPolicy::Suspended);
    child::<DatabaseFeature>(&suspended, &chain);

    chain.scheduler = None;
    assert!(waits_for_namespace::<SchedulerFeature>(&running, &chain));
    chain.connection_pool = None;
    assert!(waits_for_namespace::<ConnectionPoolFeature>(&running, &chain));
    chain.database = None;
    assert!(waits_for_namespace::<DatabaseFeature>(&running, &chain));
}

#[test]
fn workers_stop_without_an_image() {
    let running = wanted(all());
    let mut chain = chain(&running);
    let mut nameless = all();
    nameless["scheduler"]["image"] = json!(null);
    let stalls = |wanted: &Wanted, chain: &Chain| {
        matches!(SchedulerFeature::desired(wanted, chain), Desired::Stall { reason: Reason::NoImage, .. })
    };
    assert!(stalls(&suspended(nameless.clone()), &chain), "there are none to stop");

    chain.scheduler = Some(ready(child::<SchedulerFeature>(&running, &chain)));
    let stopped = child::<SchedulerFeature>(&suspended(nameless.clone()), &chain);
    assert_eq!((stopped.spec.image.as_str(), stopped.spec.run_policy), ("worker:1", RunPolicy::Suspended));
    assert!(stalls(&wanted(nameless), &chain));
}

#[test]
fn workers_keep_their_binding_while_the_next_is_not_ready() {
    let wanted_all = wanted(all());
    let mut chain = chain(&wanted_all);
    let running = child::<SchedulerFeature>(&wanted_all, &chain);
    assert_eq!(bound(&running), Some("acme-pool"));
    chain.scheduler = Some(ready(running));
    let pool: ConnectionPool = (**chain.connection_pool.as_ref().unwrap()).clone();
    chain.connection_pool = Some(with_verdict(pool, Verdict::progressing(Reason::Routing, "a new route")));
    assert_eq!(bound(&child::<SchedulerFeature>(&wanted_all, &chain)), Some("acme-pool"));

    let mut direct = all();
    direct["connectionPool"] = json!({"enabled": false});
    assert_eq!(bound(&child::<SchedulerFeature>(&wanted(direct), &chain)), Some("acme-database"));
}

#[test]
fn a_migration_is_direct_and_has_the_pool_reconnect() {
    let mut features = all();
    features["scheduler"]["migration"] = json!({"command": ["migrate"]});
    let wanted_all = wanted(features.clone());
    let mut chain = chain(&wanted_all);
    let migrating = child::<SchedulerFeature>(&wanted_all, &chain);
    let pool_of =
        |scheduler: &Scheduler| scheduler.spec.pool.clone().map(|p| (p.direct_binding_ref.name, p.reconnected_after));
    assert_eq!(pool_of(&migrating), Some(("acme-database".into(), None)));
    assert_eq!(child::<ConnectionPoolFeature>(&wanted_all, &chain).spec.migration, None);

    let migrated = |scheduler: Scheduler, uid: &str| {
        let mut scheduler = scheduler;
        scheduler.status.get_or_insert_default().migration = Some(uid.into());
        Some(ready(scheduler))
    };
    chain.scheduler = migrated(migrating, "first");
    let with_status = |chain: &Chain| {
        let mut pool = child::<ConnectionPoolFeature>(&wanted_all, chain);
        pool.status.clone_from(&chain.connection_pool.as_ref().unwrap().status);
        pool
    };
    let routing = with_status(&chain);
    assert_eq!(routing.spec.migration.as_deref(), Some("first"));
    chain.connection_pool = Some(with_verdict(routing, Verdict::progressing(Reason::Routing, "a new route")));
    assert_eq!(
        pool_of(&child::<SchedulerFeature>(&wanted_all, &chain)).unwrap().1,
        None,
        "not every process has reconnected"
    );
    chain.connection_pool = Some(ready(with_status(&chain)));
    let after_first = child::<SchedulerFeature>(&wanted_all, &chain);
    assert_eq!(pool_of(&after_first).unwrap().1.as_deref(), Some("first"));

    // The pool has reconnected after the first one only.
    chain.scheduler = migrated(after_first, "second");
    assert_eq!(pool_of(&child::<SchedulerFeature>(&wanted_all, &chain)).unwrap().1.as_deref(), Some("first"));

    features["connectionPool"] = json!({"enabled": false});
    assert_eq!(pool_of(&child::<SchedulerFeature>(&wanted(features), &chain)), None, "its binding is direct");
}

#[test]
fn features_are_removed_in_an_order_that_fails_no_query() {
    let wanted_all = wanted(all());
    let mut chain = chain(&wanted_all);
    chain.scheduler = Some(ready(child::<SchedulerFeature>(&wanted_all, &chain)));
    let off = wanted(json!({"database": {"enabled": false}, "scheduler": {"enabled": true, "image": "worker:1"}}));
    assert!(matches!(ConnectionPoolFeature::desired(&off, &chain), Desired::Linger { .. }), "workers use the pool");
    assert!(matches!(DatabaseFeature::desired(&off, &chain), Desired::Linger { .. }), "the pool is there");
    let mut moved = (**chain.scheduler.as_ref().unwrap()).clone();
    moved.spec.binding = None;
    chain.scheduler = Some(ready(moved));
    assert!(matches!(ConnectionPoolFeature::desired(&off, &chain), Desired::Off));
    chain.connection_pool = None;
    assert!(matches!(DatabaseFeature::desired(&off, &chain), Desired::Off));
}

#[test]
fn conditions_of_an_earlier_generation_are_ignored() {
    let wanted = wanted(all());
    let stale = (*ready(child::<NamespaceFeature>(&wanted, &Chain::default()))).clone();
    let mut changed: CustomerNamespace = stale;
    changed.metadata.generation = Some(4);
    assert_eq!(state_of(&changed).0, FeatureState::Progressing);
    assert_eq!(state_of(&changed).1, "NotReported");
}

#[test]
fn suspended_workers_are_still_bound() {
    let mut wanted = wanted(all());
    if let Some(scheduler) = &mut wanted.scheduler {
        scheduler.run_policy = RunPolicy::Suspended;
    }
    let chain = chain(&wanted);
    assert_eq!(bound(&child::<SchedulerFeature>(&wanted, &chain)), Some("acme-pool"));
}

#[test]
fn a_database_that_refuses_writes_is_not_ready() {
    let wanted = wanted(all());
    let with_quota = |reason: &str, message: &str| {
        let mut database = child::<DatabaseFeature>(&wanted, &chain(&wanted));
        let quota = conditions::DesiredCondition::new("StorageQuotaOk", ConditionStatus::False, reason, message);
        let _ = conditions::set(&mut database.status.get_or_insert_default().conditions, quota);
        (*ready(database)).clone()
    };
    let exceeded = with_quota("StorageQuotaExceeded", "raise spec.storage");
    let (reason, message) = outage::<DatabaseFeature>(&exceeded).unwrap();
    assert_eq!(reason, "StorageQuotaExceeded");
    assert!(message.contains("storage of 10Gi") && message.contains("refuses writes"), "{message}");
    assert!(message.contains("raise spec.features.database.storage"), "{message}");
    let breached = with_quota("StorageQuotaBreached", "its logins are closed: raise spec.storage now");
    assert!(outage::<DatabaseFeature>(&breached).unwrap().1.contains("raise spec.features.database.storage now"));

    let warned = with_quota("StorageQuotaWarning", "raise spec.storage");
    assert_eq!(outage::<DatabaseFeature>(&warned), None);
    let mirrored = mirrored::<DatabaseFeature>(&warned);
    assert_eq!((mirrored.len(), mirrored[0].type_, mirrored[0].status), (1, "StorageQuotaOk", ConditionStatus::False));
    assert!(mirrored[0].message.contains("80 % of its storage of 10Gi"), "{:?}", mirrored[0]);
}

#[test]
fn messages_of_children_name_the_fields_of_the_customer() {
    let message = "spec.parameters[work_mem]: invalid value \"x\"; see spec.features.database.storage";
    let expected =
        "spec.features.database.parameters[work_mem]: invalid value \"x\"; see spec.features.database.storage";
    assert_eq!(with_fields_of_the_customer::<DatabaseFeature>(message), expected);
    let other = "set spec.maxPoolerConnections of the DatabaseServer demo";
    assert_eq!(with_fields_of_the_customer::<DatabaseFeature>(other), other);
}
