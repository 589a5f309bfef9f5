use ahoi_api::ChildRef;
use serde_json::json;

use super::*;
use crate::resolve::resolve;

fn report(name: &'static str, condition: &'static str, state: FeatureState, reason: &str) -> Report {
    let reference = Some(ChildRef { kind: "Any".into(), namespace: None, name: "acme".into() });
    Report { name, condition, state, reason: reason.into(), message: format!("{name} says {reason}"), reference }
}

fn settle(namespace: FeatureState, database: FeatureState, webhooks: FeatureState) -> CustomerStatus {
    let mut customer = Customer::new("acme", serde_json::from_value(json!({})).unwrap());
    customer.metadata.generation = Some(2);
    let wanted = resolve(&customer, None, "ahoi-system").unwrap();
    let reason = |state| if state == FeatureState::Ready { "Ready" } else { "Because" };
    status(
        &customer,
        &wanted,
        &report("namespace", "NamespaceReady", namespace, reason(namespace)),
        &[
            report("database", "DatabaseReady", database, reason(database)),
            report("webhooks", "WebhooksReady", webhooks, reason(webhooks)),
        ],
    )
}

fn ready(status: &CustomerStatus) -> (String, String) {
    let ready = conditions::find(&status.conditions, "Ready").unwrap();
    (ready.status.clone(), ready.message.clone())
}

#[test]
fn ready_when_all_that_is_enabled_is() {
    let status = settle(FeatureState::Ready, FeatureState::Ready, FeatureState::Disabled);
    assert_eq!(status.summary.as_deref(), Some("1/1"));
    assert_eq!(ready(&status), ("True".into(), "all features are ready".into()));
    assert!(conditions::find(&status.conditions, "WebhooksReady").is_none(), "a disabled feature has no condition");
    assert!(conditions::find(&status.conditions, "Reconciling").is_none());
}

#[test]
fn what_is_not_built_is_said_and_blocks_nothing() {
    let status = settle(FeatureState::Ready, FeatureState::Ready, FeatureState::Unavailable);
    assert_eq!(status.summary.as_deref(), Some("1/2"));
    let (is_ready, message) = ready(&status);
    assert_eq!(is_ready, "True");
    assert!(message.contains("webhooks"), "{message}");
}

#[test]
fn what_needs_somebody_comes_before_what_needs_time() {
    let status = settle(FeatureState::Progressing, FeatureState::Stalled, FeatureState::Disabled);
    let (is_ready, message) = ready(&status);
    assert_eq!((is_ready.as_str(), message.as_str()), ("False", "database: database says Because"));
    assert!(conditions::find(&status.conditions, "Stalled").is_some());
    let status = settle(FeatureState::Progressing, FeatureState::Ready, FeatureState::Disabled);
    assert!(conditions::find(&status.conditions, "Reconciling").is_some());
    assert!(conditions::find(&status.conditions, "Stalled").is_none());
}
