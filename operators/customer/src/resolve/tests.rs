use ahoi_api::{PoolState, Size};
use serde_json::{Value, json};

use super::*;

fn customer(spec: Value) -> Customer {
    Customer::new("acme", serde_json::from_value(spec).unwrap())
}

fn plan(spec: Value) -> Plan {
    Plan::new("gold", serde_json::from_value(spec).unwrap())
}

fn choice(plan: Option<&Plan>) -> PlanChoice<'_> {
    plan.map_or(PlanChoice::BuiltIn, PlanChoice::Found)
}

/// What is wanted of a customer that has nothing yet, and of whose spec nothing is held back.
fn resolved(spec: Value, plan: Option<&Plan>) -> Wanted {
    let wanted = resolve(&customer(spec), choice(plan), &Chain::default(), "ahoi-system");
    assert_eq!(wanted.held, []);
    wanted
}

fn talk() -> Value {
    json!({"features": {
        "database": {"enabled": true, "storage": "256gb"},
        "scheduler": {"enabled": true, "workers": 4},
        "webhooks": {"enabled": false},
    }})
}

#[test]
fn the_talks_manifest_on_a_plan_with_an_image() {
    let plan = plan(json!({"features": {"scheduler": {"image": "worker:1"}}}));
    insta::assert_debug_snapshot!(resolved(talk(), Some(&plan)));
}

#[test]
fn each_word_about_credentials_overrides_the_plans() {
    let plan = plan(json!({"features": {"database": {"enabled": true, "credentials": {"rotationInterval": "720h"}}}}));
    let credentials = |own| resolved(json!({"features": {"database": own}}), Some(&plan)).database.unwrap().credentials;
    let said = |own| credentials(own).map(|c| (c.rotation_interval.unwrap_or_default(), c.rotation_trigger));
    assert_eq!(said(json!({})), Some(("720h".to_owned(), None)));
    let own = json!({"credentials": {"rotationTrigger": "ticket 7"}});
    assert_eq!(said(own), Some(("720h".to_owned(), Some("ticket 7".to_owned()))));
    assert_eq!(said(json!({"credentials": {"rotationInterval": "24h"}})), Some(("24h".to_owned(), None)));
}

#[test]
fn nothing_is_on_unless_somebody_says_so() {
    let wanted = resolved(json!({}), None);
    assert!(wanted.database.is_none() && wanted.connection_pool.is_none() && wanted.scheduler.is_none());
    assert!(!wanted.webhooks && !wanted.previews);
}

#[test]
fn an_omitted_feature_follows_the_plan_and_a_field_overrides_it() {
    let plan = plan(json!({"features": {
        "database": {"enabled": true, "storage": "1gb", "parameters": {"work_mem": "8MB", "statement_timeout": "30s"}},
        "scheduler": {"enabled": true, "workers": 2, "image": "worker:1",
            "env": [{"name": "A", "value": "plan"}, {"name": "B", "value": "plan"}],
            "jobs": [{"name": "report", "schedule": "@daily", "command": ["report"]}]},
        "webhooks": {"enabled": true},
    }}));
    let wanted = resolved(
        json!({"features": {
            "database": {"parameters": {"work_mem": "16MB"}},
            "scheduler": {"workers": 5, "env": [{"name": "B", "value": "own"}],
                "jobs": [{"name": "report", "schedule": "@hourly", "command": ["report"]}, {"name": "more", "schedule": "@daily", "command": ["x"]}]},
            "webhooks": {"enabled": false},
        }}),
        Some(&plan),
    );
    let database = wanted.database.unwrap();
    assert_eq!(database.storage, Size::from("1gb"));
    assert_eq!(database.parameters["work_mem"], "16MB");
    assert_eq!(database.parameters["statement_timeout"], "30s");
    let scheduler = wanted.scheduler.unwrap();
    assert_eq!(scheduler.workers, 5);
    assert_eq!(scheduler.env.iter().map(|e| e.value.as_deref().unwrap()).collect::<Vec<_>>(), ["plan", "own"]);
    assert_eq!(scheduler.jobs.iter().map(|j| j.schedule.as_str()).collect::<Vec<_>>(), ["@hourly", "@daily"]);
    assert!(wanted.connection_pool.is_some(), "the pool follows the database");
    assert!(!wanted.webhooks, "the customer's word counts");
}

#[test]
fn the_pool_follows_the_database_unless_told_otherwise() {
    assert!(resolved(json!({"features": {"database": {"enabled": true}}}), None).connection_pool.is_some());
    let direct = json!({"features": {"database": {"enabled": true}, "connectionPool": {"enabled": false}}});
    assert!(resolved(direct, None).connection_pool.is_none());
    // The Plan's word about pools is not an order for a customer without a database.
    let pooled = plan(json!({"features": {"connectionPool": {"enabled": true}}}));
    assert!(resolved(json!({}), Some(&pooled)).connection_pool.is_none());
    let ordered = json!({"features": {"connectionPool": {"enabled": true}}});
    let wanted = resolve(&customer(ordered), choice(Some(&pooled)), &Chain::default(), "ahoi-system");
    assert!(wanted.connection_pool.is_none());
    assert_eq!((wanted.held[0].feature, wanted.held[0].reason), (Some("connectionPool"), "PoolNeedsDatabase"));
    assert!(wanted.held[0].message.contains("spec.features.connectionPool.enabled"), "{:?}", wanted.held);
}

#[test]
fn suspended_disables_the_route_and_the_workload() {
    let wanted = resolved(
        json!({"runPolicy": "Suspended", "features": {"database": {"enabled": true}, "scheduler": {"enabled": true}}}),
        None,
    );
    assert_eq!(wanted.connection_pool.unwrap().state, PoolState::Disabled);
    assert_eq!(wanted.scheduler.unwrap().run_policy, RunPolicy::Suspended);
    assert!(wanted.database.is_some());
}

#[test]
fn a_database_that_is_off_is_known_as_it_would_be() {
    let plan = plan(json!({"features": {"database": {"enabled": true, "serverSelector": {"tier": "a"}}}}));
    let features = |on: bool| json!({"features": {"database": {"enabled": on, "storage": "2gb"}}});
    let on = resolved(features(true), Some(&plan)).database;
    assert_eq!(Some(database_if_on(&customer(features(false)), Some(&plan))), on);
    assert!(resolved(features(false), Some(&plan)).database.is_none());
}

#[test]
fn only_offboarding_destroys_data() {
    let wanted = resolved(json!({"deletionPolicy": "Delete", "features": {"database": {"enabled": true}}}), None);
    assert_eq!(wanted.database.unwrap().deletion_policy, ahoi_api::DeletionPolicy::Retain);
}

#[test]
fn data_from_before_the_customer_is_refused_where_its_plan_or_itself_says_so() {
    let created = Time("2026-01-02T03:04:05Z".parse().unwrap());
    let refused = |own: Value, planned: Value| {
        let mut customer = customer(own);
        customer.metadata.creation_timestamp = Some(created.clone());
        let wanted = resolve(&customer, choice(Some(&plan(planned))), &Chain::default(), "ahoi-system");
        wanted.database.unwrap().refuse_data_before
    };
    let with = |policy: Value| json!({"adoptionPolicy": policy, "features": {"database": {"enabled": true}}});
    assert_eq!(refused(with(Value::Null), json!({})), None);
    assert_eq!(refused(with(json!("Refuse")), json!({})), Some(created.clone()));
    assert_eq!(refused(with(Value::Null), json!({"adoptionPolicy": "Refuse"})), Some(created.clone()));
    assert_eq!(
        refused(with(json!("Automatic")), json!({"adoptionPolicy": "Refuse"})),
        None,
        "the Customer overrides it"
    );
}
