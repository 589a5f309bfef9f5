//! Fields that are not applied, of existing and of new customers.

use std::sync::Arc;

use ahoi_api::{Customer, FeatureState, GroupBinding, Plan, PoolState, Reason, RunPolicy, Size};
use serde_json::{Value, json};

use crate::features::chain::Chain;
use crate::features::database::DatabaseFeature;
use crate::features::feature::{Desired, Feature};
use crate::features::namespace::NamespaceFeature;
use crate::features::scheduler::SchedulerFeature;
use crate::held::Held;
use crate::resolve::{PlanChoice, resolve};
use crate::wanted::Wanted;

const SYSTEM: &str = "ahoi-system";
const MISSING: PlanChoice<'_> = PlanChoice::Missing { reason: Reason::PlanNotFound, why: "no Plan" };

fn customer(spec: Value) -> Customer {
    Customer::new("acme", serde_json::from_value(spec).unwrap())
}

fn plan(spec: Value) -> Plan {
    Plan::new("gold", serde_json::from_value(spec).unwrap())
}

/// A plan with limits, on which customers have everything.
fn gold() -> Plan {
    plan(json!({
        "features": {"scheduler": {"image": "worker:1", "workers": 2}, "database": {"storage": "10gb"}},
        "limits": {"maxWorkers": 3, "maxStorage": "100gb", "maxPoolSize": 5, "maxJobs": 1},
    }))
}

fn everything() -> Value {
    json!({"database": {"enabled": true}, "scheduler": {"enabled": true}})
}

fn desired<F: Feature>(wanted: &Wanted, chain: &Chain) -> F::Child {
    match F::desired(wanted, chain) {
        Desired::Child(child) => *child,
        other => panic!("no child but {other:?}"),
    }
}

/// The children of a customer with these `features` on the plan [`gold`].
fn in_force(features: Value) -> Chain {
    let customer = customer(json!({ "features": features }));
    let wanted = resolve(&customer, PlanChoice::Found(&gold()), &Chain::default(), SYSTEM);
    let namespace = desired::<NamespaceFeature>(&wanted, &Chain::default());
    let mut chain = Chain { namespace: Some(Arc::new(namespace)), ..Chain::default() };
    let mut database = ahoi_api::Database::new("acme", wanted.database.clone().unwrap());
    database.metadata.generation = Some(1);
    chain.database = Some(Arc::new(database));
    let pool = ahoi_api::ConnectionPool::new("acme", wanted.connection_pool.clone().unwrap());
    chain.connection_pool = Some(Arc::new(pool));
    chain.scheduler = Some(Arc::new(ahoi_api::Scheduler::new("acme", wanted.scheduler.clone().unwrap())));
    chain
}

fn on_gold(spec: Value, chain: &Chain) -> Wanted {
    resolve(&customer(spec), PlanChoice::Found(&gold()), chain, SYSTEM)
}

/// The only part that is not applied.
fn held(wanted: &Wanted) -> &Held {
    assert_eq!(wanted.held.len(), 1, "{:?}", wanted.held);
    &wanted.held[0]
}

fn assert_says(message: &str, words: &[&str]) {
    for word in words {
        assert!(message.contains(word), "{word:?} is not in {message:?}");
    }
}

#[test]
fn a_field_over_the_plan_keeps_its_value_and_blocks_nothing_else() {
    let chain = in_force(everything());
    let over = |feature: &str, fields: Value| {
        let mut features = everything();
        features[feature].as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        on_gold(json!({"runPolicy": "Suspended", "groups": [{"group": "ops"}], "features": features}), &chain)
    };
    let job = |name: &str| json!({"name": name, "schedule": "@daily", "command": ["a"]});
    let mut pooled = everything();
    pooled["connectionPool"] = json!({"poolSize": 6});
    let cases = [
        (over("scheduler", json!({"workers": 9})), "scheduler.workers", "9", "3", "stays 2"),
        (over("scheduler", json!({"jobs": [job("a"), job("b")]})), "scheduler.jobs", "a list of 2", "1", "list of 0"),
        (over("database", json!({"storage": "20tb"})), "database.storage", "20tb", "100gb", "stays 10gb"),
        (
            on_gold(json!({"runPolicy": "Suspended", "groups": [{"group": "ops"}], "features": pooled}), &chain),
            "connectionPool.poolSize",
            "6",
            "5",
            "stays the fleet's default",
        ),
    ];
    for (wanted, field, value, most, stays) in cases {
        let held = held(&wanted);
        assert_eq!(held.reason, Reason::ExceedsPlan);
        assert_eq!(held.feature, field.split('.').next());
        let field = format!("spec.features.{field} is {value}");
        assert_says(&held.message, &[&field, "Plan gold", most, stays, "spec.plan", "the rest of the spec is applied"]);

        assert_eq!(wanted.namespace.as_ref().unwrap().groups.len(), 1);
        let scheduler = wanted.scheduler.as_ref().unwrap();
        assert_eq!((scheduler.run_policy, scheduler.workers, scheduler.jobs.len()), (RunPolicy::Suspended, 2, 0));
        let pool = wanted.connection_pool.as_ref().unwrap();
        assert_eq!((pool.state, pool.pool_size), (PoolState::Disabled, None));
        assert_eq!(wanted.database.as_ref().unwrap().storage, Size::from("10gb"));
    }
}

#[test]
fn a_feature_over_the_plan_is_not_created_and_the_others_are() {
    let mut features = everything();
    features["scheduler"]["workers"] = json!(9);
    let wanted = on_gold(json!({ "features": features }), &Chain::default());
    assert_says(&held(&wanted).message, &["workers is 9", "the feature scheduler is not created"]);
    assert!(wanted.scheduler.is_none() && wanted.database.is_some() && wanted.connection_pool.is_some());
    // A disabled feature exceeds nothing, and a value equal to the limit does not exceed it.
    for scheduler in [json!({"enabled": false, "workers": 9}), json!({"enabled": true, "workers": 3})] {
        assert_eq!(on_gold(json!({"features": {"scheduler": scheduler}}), &Chain::default()).held, []);
    }
}

#[test]
fn a_plan_over_its_own_limit_is_named() {
    let plan = plan(json!({
        "features": {"scheduler": {"enabled": true, "image": "worker:1", "workers": 4}}, "limits": {"maxWorkers": 3},
    }));
    let wanted = resolve(&customer(json!({})), PlanChoice::Found(&plan), &Chain::default(), SYSTEM);
    let field = "spec.features.scheduler.workers of the Plan gold is 4 and its spec.limits.maxWorkers is 3";
    assert_says(&held(&wanted).message, &[field, "correct the Plan"]);
}

#[test]
fn storage_is_compared_with_what_is_in_force() {
    let storage = |chain: &Chain, size: Value| {
        on_gold(json!({"features": {"database": {"enabled": true, "storage": size}}}), chain)
    };
    let chain = in_force(json!({"database": {"enabled": true, "storage": "20gb"}, "scheduler": {"enabled": true}}));
    for (own, size) in [(json!("20gb"), "20gb"), (json!("50gb"), "50gb"), (json!("100gb"), "100gb")] {
        let wanted = storage(&chain, own);
        assert_eq!((wanted.held.len(), wanted.database.unwrap().storage), (0, Size::from(size)));
    }
    let wanted = storage(&chain, json!("20tb"));
    assert_says(&held(&wanted).message, &["is 20tb", "at most 100gb", "stays 20gb"]);
    let wanted = storage(&chain, json!("5gb"));
    assert_eq!(held(&wanted).reason, Reason::StorageCannotShrink);
    assert_says(&held(&wanted).message, &["spec.features.database.storage is 5gb", "at least 20gb", "stays 20gb"]);
    assert_eq!(wanted.database.unwrap().storage, Size::from("20gb"));

    let wanted = storage(&Chain::default(), json!("999999999pb"));
    assert_says(&held(&wanted).message, &["spec.features.database.storage", "999999999pb"]);
    assert!(wanted.database.is_none());
}

#[test]
fn advice_about_storage_that_cannot_shrink_can_be_followed() {
    let chain = in_force(everything());
    let small = plan(json!({"limits": {"maxStorage": "1gb"}}));
    let spec = json!({"features": {"database": {"enabled": true, "storage": "10gb"}}});
    let wanted = resolve(&customer(spec), PlanChoice::Found(&small), &chain, SYSTEM);
    let message = &held(&wanted).message;
    assert_says(
        message,
        &["10gb, which cannot shrink", "spec.plan", "spec.limits.maxStorage of the Plan gold", "10gb"],
    );
    assert!(!message.contains("set it to at most"), "{message}");
}

#[test]
fn removed_storage_stays_and_follows_a_raised_default() {
    let chain = in_force(json!({"database": {"enabled": true, "storage": "5gb"}, "scheduler": {"enabled": true}}));
    let size = |recorded: Option<i64>, chain: &Chain| {
        let mut customer = customer(json!({"features": {"database": {"enabled": true}}}));
        customer.status.get_or_insert_default().default_storage_bytes = recorded;
        let wanted = resolve(&customer, PlanChoice::Found(&gold()), chain, SYSTEM);
        assert_eq!((wanted.held.len(), wanted.default_storage), (0, Some(10_000_000_000)));
        wanted.database.unwrap().storage
    };
    assert_eq!(size(Some(10_000_000_000), &chain), Size::from("5gb"), "removing the field changes nothing");
    assert_eq!(size(None, &chain), Size::from("5gb"), "it is not known whether the default was raised");
    assert_eq!(size(Some(8_000_000_000), &chain), Size::from("10gb"), "the default was raised");
    let larger = in_force(json!({"database": {"enabled": true, "storage": "20gb"}, "scheduler": {"enabled": true}}));
    assert_eq!(size(Some(8_000_000_000), &larger), Size::from("20gb"), "a smaller default shrinks nothing");
    assert_eq!(size(Some(8_000_000_000), &Chain::default()), Size::from("10gb"), "a new database has the default");
}

#[test]
fn retained_data_keeps_its_storage() {
    let mut customer = customer(json!({"features": {"database": {"enabled": true}}}));
    let status = customer.status.get_or_insert_default();
    (status.database_retained, status.storage_bytes) = (true, Some(50_000_000_000));
    let wanted = resolve(&customer, PlanChoice::Found(&gold()), &Chain::default(), SYSTEM);
    assert_eq!(wanted.database.unwrap().storage, Size::from("50gb"));
}

#[test]
fn without_its_plan_a_customer_keeps_what_it_has() {
    let chain = in_force(everything());
    let missing = |spec: Value, chain: &Chain| resolve(&customer(spec), MISSING, chain, SYSTEM);
    let wanted = missing(json!({"features": {"scheduler": {"workers": 7}, "database": {"storage": "70gb"}}}), &chain);
    assert_eq!(wanted.database, Some(chain.database.as_ref().unwrap().spec.clone()));
    assert_eq!(wanted.connection_pool, Some(chain.connection_pool.as_ref().unwrap().spec.clone()));
    assert_eq!(wanted.scheduler, Some(chain.scheduler.as_ref().unwrap().spec.clone()));
    assert_eq!((held(&wanted).feature, held(&wanted).reason), (None, Reason::PlanNotFound));
    assert_says(&held(&wanted).message, &["no Plan", "spec.groups, spec.runPolicy", "stays as it is"]);

    // Groups, suspension, disabled features and rotations are applied.
    let credentials = json!({"rotationRequest": "leaked"});
    let spec = json!({"runPolicy": "Suspended", "groups": [{"group": "ops"}],
        "features": {"database": {"credentials": credentials}}});
    let wanted = missing(spec, &chain);
    let group = GroupBinding { group: "ops".into(), role: ahoi_api::GroupRole::View };
    assert_eq!(wanted.namespace.as_ref().unwrap().groups, [group]);
    assert_eq!(wanted.scheduler.unwrap().run_policy, RunPolicy::Suspended);
    assert_eq!(wanted.connection_pool.unwrap().state, PoolState::Disabled);
    let trigger = wanted.database.unwrap().credentials.unwrap().rotation_request;
    assert_eq!(trigger.as_deref(), Some("leaked"));
    let off = json!({"database": {"enabled": false}, "scheduler": {"enabled": false}});
    let wanted = missing(json!({ "features": off }), &chain);
    assert!(wanted.database.is_none() && wanted.connection_pool.is_none() && wanted.scheduler.is_none());
}

#[test]
fn without_its_plan_nothing_is_created() {
    let mut customer = customer(json!({ "features": everything() }));
    let wanted = resolve(&customer, MISSING, &Chain::default(), SYSTEM);
    assert!(wanted.namespace.is_none() && wanted.database.is_none() && wanted.scheduler.is_none());
    let features: Vec<_> = wanted.held.iter().map(|held| held.feature).collect();
    assert_eq!(features, [None, Some("namespace"), Some("database"), Some("scheduler")]);
    assert!(matches!(NamespaceFeature::desired(&wanted, &Chain::default()), Desired::Wait { .. }));
    // An announced feature stays enabled by the missing Plan.
    customer.status.get_or_insert_default().features = vec![ahoi_api::FeatureStatus {
        name: "webhooks".into(),
        state: FeatureState::Unavailable,
        reason: "NotImplemented".into(),
        reference: None,
    }];
    assert_eq!(resolve(&customer, MISSING, &Chain::default(), SYSTEM).announced, ["webhooks"]);
}

#[test]
fn a_pool_is_disabled_with_its_database() {
    let chain = in_force(everything());
    let off = json!({"database": {"enabled": false}, "scheduler": {"enabled": false}});
    let wanted = on_gold(json!({ "features": off }), &chain);
    assert!(wanted.connection_pool.is_none() && wanted.held.is_empty());
    assert!(matches!(DatabaseFeature::desired(&wanted, &chain), Desired::Linger { .. }));
    assert!(matches!(SchedulerFeature::desired(&wanted, &chain), Desired::Off));
}
