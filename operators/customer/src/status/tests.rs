use ahoi_api::{ChildRef, Reason};
use serde_json::json;

use super::*;
use crate::resolve::{PlanChoice, resolve};

fn report(name: &'static str, condition: &'static str, state: FeatureState, reason: &str) -> Report {
    let reference = Some(ChildRef { kind: "Any".into(), namespace: None, name: "acme".into() });
    Report {
        name,
        condition,
        state,
        reason: reason.into(),
        message: format!("{name} reports {reason}"),
        reference,
        mirrors: &["JobsHealthy", "StorageQuotaOk"],
        mirrored: Vec::new(),
        recreated: false,
    }
}

fn customer() -> Customer {
    let mut customer = Customer::new("acme", serde_json::from_value(json!({})).unwrap());
    customer.metadata.generation = Some(2);
    customer
}

fn status_with(namespace: FeatureState, database: FeatureState, webhooks: FeatureState) -> CustomerStatus {
    status_of(&customer(), namespace, database, webhooks)
}

fn status_of(
    customer: &Customer,
    namespace: FeatureState,
    database: FeatureState,
    webhooks: FeatureState,
) -> CustomerStatus {
    let wanted = resolve(customer, PlanChoice::BuiltIn, &Chain::default(), "ahoi-system");
    let reason = |state| if state == FeatureState::Ready { "Ready" } else { "Because" };
    status(
        customer,
        &wanted,
        &Chain::default(),
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
fn a_customer_is_ready_when_all_enabled_features_are() {
    let status = status_with(FeatureState::Ready, FeatureState::Ready, FeatureState::Disabled);
    assert_eq!((status.ready_features, status.enabled_features), (Some(1), Some(1)));
    assert_eq!(ready(&status), ("True".into(), "all features are ready".into()));
    assert!(conditions::find(&status.conditions, "WebhooksReady").is_none(), "a disabled feature has no condition");
    assert!(conditions::find(&status.conditions, "Reconciling").is_none());
}

#[test]
fn an_unavailable_feature_is_reported_and_blocks_nothing() {
    let status = status_with(FeatureState::Ready, FeatureState::Ready, FeatureState::Unavailable);
    assert_eq!((status.ready_features, status.enabled_features), (Some(1), Some(2)));
    let (is_ready, message) = ready(&status);
    assert_eq!(is_ready, "True");
    assert_eq!(message, "1 of 2 enabled features are ready; webhooks: webhooks reports Because");
}

#[test]
fn stalled_comes_before_progressing() {
    let status = status_with(FeatureState::Progressing, FeatureState::Stalled, FeatureState::Disabled);
    let (is_ready, message) = ready(&status);
    assert_eq!((is_ready.as_str(), message.as_str()), ("False", "database: database reports Because"));
    assert!(conditions::find(&status.conditions, "Stalled").is_some());
    let status = status_with(FeatureState::Progressing, FeatureState::Ready, FeatureState::Disabled);
    assert!(conditions::find(&status.conditions, "Reconciling").is_some());
    assert!(conditions::find(&status.conditions, "Stalled").is_none());
}

#[test]
fn data_is_retained_until_a_database_has_it_again() {
    let (ready, disabled) = (FeatureState::Ready, FeatureState::Disabled);
    let mut customer = customer();
    assert!(!status_of(&customer, ready, disabled, disabled).database_retained, "there never was a database");
    customer.status = Some(retaining(&customer));
    assert!(status_of(&customer, ready, disabled, disabled).database_retained);
    assert!(status_of(&customer, ready, FeatureState::Progressing, disabled).database_retained, "not adopted yet");
    assert!(!status_of(&customer, ready, ready, disabled).database_retained);
}

#[test]
fn a_paused_change_is_not_ready() {
    let mut customer = customer();
    customer.status = Some(status_with(FeatureState::Ready, FeatureState::Ready, FeatureState::Disabled));
    assert_eq!(ready(&paused(&customer)).0, "True", "nothing has changed since");

    customer.metadata.generation = Some(3);
    let status = paused(&customer);
    let (is_ready, message) = ready(&status);
    assert_eq!(is_ready, "Unknown");
    assert!(message.contains("spec.reconcilePolicy") && message.contains("has changed"), "{message}");
    let ready = conditions::find_observed(&status.conditions, "Ready", Some(3));
    assert_eq!(ready.map(|c| c.reason.as_str()), Some(Reason::Paused.as_str()));
    assert!(conditions::find(&status.conditions, PAUSED).is_some());
    assert!(conditions::find(&status.conditions, "DatabaseReady").is_some(), "the rest stays as it was");

    customer.status = Some(status.clone());
    assert_eq!(paused(&customer), status, "it is written once");
}

#[test]
fn stalled_before_a_pause_is_removed_by_a_change() {
    let mut customer = customer();
    customer.status = Some(status_with(FeatureState::Ready, FeatureState::Stalled, FeatureState::Disabled));
    assert!(conditions::find(&paused(&customer).conditions, "Stalled").is_some());
    customer.metadata.generation = Some(3);
    assert!(conditions::find(&paused(&customer).conditions, "Stalled").is_none());
}

/// A database that is Ready, with this condition on its Customer.
fn with_mirrored(type_: &'static str, is: ConditionStatus, reason: &str, message: &str) -> CustomerStatus {
    let customer = customer();
    let wanted = resolve(&customer, PlanChoice::BuiltIn, &Chain::default(), "ahoi-system");
    let mut database = report("database", "DatabaseReady", FeatureState::Ready, "Ready");
    database.mirrored.push(Mirrored { type_, status: is, reason: reason.into(), message: message.into() });
    let namespace = report("namespace", "NamespaceReady", FeatureState::Ready, "Ready");
    status(&customer, &wanted, &Chain::default(), &namespace, &[database])
}

#[test]
fn conditions_of_children_are_repeated_on_the_customer() {
    let healthy = with_mirrored("JobsHealthy", ConditionStatus::True, "AllHealthy", "no job has failed its last run");
    assert_eq!(ready(&healthy).1, "all features are ready");
    assert!(conditions::find(&healthy.conditions, "JobsHealthy").is_some_and(|c| c.status == "True"));

    let failed = with_mirrored("JobsHealthy", ConditionStatus::False, "JobFailed", "job report failed");
    assert_eq!(ready(&failed), ("True".into(), "all features are ready; database: job report failed".into()));
    let condition = conditions::find(&failed.conditions, "JobsHealthy").unwrap();
    assert_eq!((condition.status.as_str(), condition.reason.as_str()), ("False", "JobFailed"));
    assert_eq!(condition.observed_generation, Some(2));

    let mut customer = customer();
    customer.status = Some(failed);
    let (ready, disabled) = (FeatureState::Ready, FeatureState::Disabled);
    let off = status_of(&customer, ready, disabled, disabled);
    assert!(
        conditions::find(&off.conditions, "JobsHealthy").is_none(),
        "it is removed with the child that reported it"
    );
}
