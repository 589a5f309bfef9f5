//! Each reason of this controller has a message that names the object or field and what to do, and is in the documentation.

use ahoi_api::{Customer, FeatureState, Plan, Reason};
use serde_json::{Value, json};

use crate::features::announced::ANNOUNCED;
use crate::features::chain::Chain;
use crate::features::database::DatabaseFeature;
use crate::features::feature::{Desired, Feature};
use crate::features::namespace::NamespaceFeature;
use crate::features::scheduler::SchedulerFeature;
use crate::resolve::{PlanChoice, resolve};
use crate::status::paused;

const DOCUMENTATION: &str = include_str!("../../../docs/reference/reasons.md");

fn customer(features: Value) -> Customer {
    Customer::new("acme", serde_json::from_value(json!({ "features": features })).unwrap())
}

/// The parts that are not applied, of a customer on a Plan with this spec.
fn held(features: Value, plan: Value) -> Vec<(String, String)> {
    let plan = Plan::new("gold", serde_json::from_value(plan).unwrap());
    let wanted = resolve(&customer(features), PlanChoice::Found(&plan), &Chain::default(), "ahoi-system");
    wanted.held.into_iter().map(|held| (held.reason.to_string(), held.message)).collect()
}

fn of_desired<C: std::fmt::Debug>(desired: Desired<C>) -> (String, String) {
    match desired {
        Desired::Wait { reason, message } | Desired::Stall { reason, message } => (reason.to_string(), message),
        other => panic!("it neither waits nor stalls: {other:?}"),
    }
}

/// Each reason with its message, and the words that a person needs to correct the cause.
fn reasons_and_messages() -> Vec<(String, String, &'static [&'static str])> {
    let mut all = Vec::new();
    let mut add = |found: Vec<(String, String)>, words: &'static [&'static str]| {
        assert!(!found.is_empty(), "nothing was found that has {words:?}");
        all.extend(found.into_iter().map(|(reason, message)| (reason, message, words)));
    };
    let on = json!({"enabled": true});
    add(
        held(json!({"scheduler": {"enabled": true, "workers": 9}}), json!({"limits": {"maxWorkers": 3}})),
        &["spec.features.scheduler.workers is 9", "Plan gold", "at most 3", "set it", "is not created"],
    );
    add(
        held(json!({"database": on, "connectionPool": {"poolSize": 9}}), json!({"limits": {"maxPoolSize": 3}})),
        &["spec.features.connectionPool.poolSize is 9", "Plan gold", "at most 3", "set it"],
    );
    add(
        held(json!({ "database": on }), json!({"limits": {"maxStorage": "1gb"}})),
        &[
            "spec.features.database.storage of the Plan gold is 10Gi",
            "spec.limits.maxStorage is 1gb",
            "correct the Plan",
        ],
    );
    add(
        held(json!({ "database": on }), json!({"limits": {"maxStorage": "999999999pb"}})),
        &["spec.limits.maxStorage of the Plan gold", "999999999pb", "write a number and a unit"],
    );
    add(
        held(json!({"database": {"enabled": true, "storage": "999999999pb"}}), json!({})),
        &["spec.features.database.storage", "999999999pb", "write a number and a unit"],
    );
    add(
        held(json!({ "connectionPool": on }), json!({})),
        &["spec.features.connectionPool.enabled is true", "set spec.features.database.enabled to true"],
    );

    let why = "spec.plan names the Plan gold, which does not exist: create it or name another";
    let missing = PlanChoice::Missing { reason: Reason::PlanNotFound, why };
    let wanted = resolve(&customer(json!({})), missing, &Chain::default(), "ahoi-system");
    add(
        vec![(wanted.held[0].reason.to_string(), wanted.held[0].message.clone())],
        &["spec.plan", "gold", "create it", "spec.groups, spec.runPolicy", "stays as it is"],
    );
    add(vec![of_desired(NamespaceFeature::desired(&wanted, &Chain::default()))], &["CustomerNamespace acme"]);

    let plan = Plan::new("gold", ahoi_api::PlanSpec::default());
    let features = json!({"database": on, "scheduler": on});
    let wanted = resolve(&customer(features), PlanChoice::Found(&plan), &Chain::default(), "ahoi-system");
    add(
        vec![of_desired(SchedulerFeature::desired(&wanted, &Chain::default()))],
        &["no image", "set spec.features.scheduler.image of the Customer acme or of the Plan gold"],
    );
    add(
        vec![of_desired(DatabaseFeature::desired(&wanted, &Chain::default()))],
        &["CustomerNamespace acme", "NamespaceReady"],
    );

    let webhooks = ANNOUNCED[0].report(true);
    assert_eq!(webhooks.state, FeatureState::Unavailable);
    add(
        vec![(webhooks.reason, webhooks.message)],
        &["spec.features.webhooks", "set spec.features.webhooks.enabled to false"],
    );
    let conditions = paused(&customer(json!({}))).conditions;
    let ready = conditions.iter().find(|condition| condition.type_ == "Ready").unwrap();
    add(vec![(ready.reason.clone(), ready.message.clone())], &["spec.reconcilePolicy is Paused", "Normal"]);
    all
}

#[test]
fn every_reason_names_its_field_and_what_to_do() {
    for (reason, message, words) in reasons_and_messages() {
        for word in words {
            assert!(message.contains(word), "{reason}: {word:?} is not in {message:?}");
        }
        assert!(DOCUMENTATION.contains(&format!("`{reason}`")), "{reason} is not in docs/reference/reasons.md");
    }
}
