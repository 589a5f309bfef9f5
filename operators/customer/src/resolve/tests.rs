use ahoi_api::{PoolState, Reason, Size};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};

use super::*;
use crate::features::database::spec::database_if_on;

fn customer(spec: Value) -> Customer {
    Customer::new("acme", serde_json::from_value(spec).unwrap())
}

fn plan(spec: Value) -> Plan {
    Plan::new("gold", serde_json::from_value(spec).unwrap())
}

fn choice(plan: Option<&Plan>) -> PlanChoice<'_> {
    plan.map_or(PlanChoice::BuiltIn, PlanChoice::Found)
}

/// The desired state of a new customer, of whose spec everything is applied.
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
fn each_field_of_credentials_overrides_the_plan() {
    let plan = plan(json!({"features": {"database": {"enabled": true, "credentials": {"rotationInterval": "720h"}}}}));
    let credentials = |own| resolved(json!({"features": {"database": own}}), Some(&plan)).database.unwrap().credentials;
    let resolved = |own| credentials(own).map(|c| (c.rotation_interval.unwrap_or_default(), c.rotation_request));
    assert_eq!(resolved(json!({})), Some(("720h".to_owned(), None)));
    let own = json!({"credentials": {"rotationRequest": "ticket 7"}});
    assert_eq!(resolved(own), Some(("720h".to_owned(), Some("ticket 7".to_owned()))));
    assert_eq!(resolved(json!({"credentials": {"rotationInterval": "24h"}})), Some(("24h".to_owned(), None)));
}

#[test]
fn features_are_off_by_default() {
    let wanted = resolved(json!({}), None);
    assert!(wanted.database.is_none() && wanted.connection_pool.is_none() && wanted.scheduler.is_none());
    assert!(wanted.announced.is_empty());
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
    assert!(wanted.announced.is_empty(), "the Customer overrides the Plan");
}

#[test]
fn the_pool_follows_the_database_by_default() {
    assert!(resolved(json!({"features": {"database": {"enabled": true}}}), None).connection_pool.is_some());
    let direct = json!({"features": {"database": {"enabled": true}, "connectionPool": {"enabled": false}}});
    assert!(resolved(direct, None).connection_pool.is_none());
    // A Plan enables pools only for customers with a database.
    let pooled = plan(json!({"features": {"connectionPool": {"enabled": true}}}));
    assert!(resolved(json!({}), Some(&pooled)).connection_pool.is_none());
    let own = json!({"features": {"connectionPool": {"enabled": true}}});
    let wanted = resolve(&customer(own), choice(Some(&pooled)), &Chain::default(), "ahoi-system");
    assert!(wanted.connection_pool.is_none());
    assert_eq!((wanted.held[0].feature, wanted.held[0].reason), (Some("connectionPool"), Reason::PoolNeedsDatabase));
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
fn the_spec_of_a_disabled_database_is_known() {
    let plan = plan(json!({"features": {"database": {"enabled": true, "serverSelector": {"tier": "a"}}}}));
    let features = |on: bool| json!({"features": {"database": {"enabled": on, "storage": "2gb"}}});
    let on = resolved(features(true), Some(&plan)).database;
    assert_eq!(Some(database_if_on(&customer(features(false)), Some(&plan))), on);
    assert!(resolved(features(false), Some(&plan)).database.is_none());
}

#[test]
fn disabling_a_database_destroys_no_data() {
    let wanted = resolved(json!({"deletionPolicy": "Delete", "features": {"database": {"enabled": true}}}), None);
    assert_eq!(wanted.database.unwrap().deletion_policy, ahoi_api::DeletionPolicy::Retain);
}

#[test]
fn the_adoption_policy_refuses_older_data() {
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
