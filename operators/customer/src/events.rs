//! The events of a Customer, one for each change of its status. The reconcile crate adds those for Stalled and its end. Pure.

use ahoi_api::{Customer, CustomerStatus, DeletionPolicy, EventReason, FeatureState, Reason, RunPolicy};
use ahoi_reconcile::{Transition, conditions};

/// The events for the change from `old` to `new`.
pub fn events(customer: &Customer, old: Option<&CustomerStatus>, new: &CustomerStatus) -> Vec<Transition> {
    if is_offboarding(new) {
        let began = !old.is_some_and(is_offboarding);
        return began.then(|| offboarding(customer, new)).into_iter().collect();
    }
    // Nothing can have changed before the first status.
    let Some(old) = old.filter(|old| old.observed_generation.is_some()) else {
        return is_ready(new).then(|| created(new)).into_iter().collect();
    };
    let mut all = Vec::new();
    if old.first_ready_at.is_none() && !is_ready(old) && is_ready(new) {
        all.push(created(new));
    }
    let (on, off) = (switched(old, new, true), switched(old, new, false));
    if !on.is_empty() {
        all.push(Transition::normal(EventReason::FeatureEnabled.as_str(), format!("enabled: {}", on.join(", "))));
    }
    if !off.is_empty() {
        let kept = if new.database_retained && !old.database_retained { "; its data stays on the server" } else { "" };
        all.push(Transition::normal(
            EventReason::FeatureDisabled.as_str(),
            format!("disabled: {}{kept}", off.join(", ")),
        ));
    }
    match (old.run_policy, new.run_policy) {
        (Some(RunPolicy::Running), Some(RunPolicy::Suspended)) => all.push(Transition::normal(
            EventReason::Suspended.as_str(),
            "spec.runPolicy is Suspended: stopping workers and jobs, closing the connection pool; the data is kept",
        )),
        (Some(RunPolicy::Suspended), Some(RunPolicy::Running)) => all.push(Transition::normal(
            EventReason::Resumed.as_str(),
            "spec.runPolicy is Running: starting workers and jobs, opening the connection pool",
        )),
        _ => {}
    }
    if old.plan != new.plan {
        let name = |plan: &Option<String>| {
            plan.as_ref().map_or_else(|| "the built-in defaults".to_owned(), |name| format!("Plan {name}"))
        };
        all.push(Transition::normal(
            EventReason::PlanChanged.as_str(),
            format!("changed from {} to {}", name(&old.plan), name(&new.plan)),
        ));
    }
    if let (Some(before), Some(now)) = (&old.credentials_rotated_at, &new.credentials_rotated_at)
        && before < now
    {
        all.push(Transition::normal(
            EventReason::CredentialsRotated.as_str(),
            "published a new login and password in the Secrets of the database",
        ));
    }
    all
}

fn created(status: &CustomerStatus) -> Transition {
    let enabled = status.features.iter().filter(|feature| feature.state != FeatureState::Disabled);
    let features: Vec<&str> = enabled.map(|feature| feature.name.as_str()).collect();
    let namespace = status.namespace.as_deref().unwrap_or_default();
    let has = if features.is_empty() { "no features".to_owned() } else { format!("features: {}", features.join(", ")) };
    Transition::normal(EventReason::Created.as_str(), format!("created namespace {namespace}; {has}"))
}

fn offboarding(customer: &Customer, status: &CustomerStatus) -> Transition {
    let has_data = status.storage_bytes.is_some();
    let data = match customer.spec.deletion_policy {
        _ if !has_data => "",
        DeletionPolicy::Retain => "; its data stays on the server",
        DeletionPolicy::Archive => "; its data is archived on the server",
        DeletionPolicy::Delete => "; its data is deleted",
    };
    Transition::normal(
        EventReason::Offboarding.as_str(),
        format!("removing workers, connection pool, database and namespace{data}"),
    )
}

/// The features that have been enabled, or disabled, since `old`.
fn switched<'a>(old: &CustomerStatus, new: &'a CustomerStatus, on: bool) -> Vec<&'a str> {
    let is_on = |state| state != FeatureState::Disabled;
    let was_on = |name: &str| old.features.iter().any(|feature| feature.name == name && is_on(feature.state));
    let known = |name: &str| old.features.iter().any(|feature| feature.name == name);
    let changed = new.features.iter().filter(|f| known(&f.name) && is_on(f.state) == on && was_on(&f.name) != on);
    changed.map(|feature| feature.name.as_str()).collect()
}

fn is_ready(status: &CustomerStatus) -> bool {
    conditions::is_true(&status.conditions, conditions::READY)
}

fn is_offboarding(status: &CustomerStatus) -> bool {
    conditions::find(&status.conditions, conditions::READY).is_some_and(|ready| ready.reason == Reason::Offboarding)
}

#[cfg(test)]
mod tests {
    use ahoi_api::{ChildRef, FeatureStatus};
    use ahoi_reconcile::Verdict;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use k8s_openapi::jiff::Timestamp;
    use serde_json::json;

    use super::*;

    fn customer(spec: serde_json::Value) -> Customer {
        Customer::new("acme", serde_json::from_value(spec).unwrap())
    }

    fn status(verdict: Verdict, features: &[(&str, FeatureState)]) -> CustomerStatus {
        let feature = |(name, state): &(&str, FeatureState)| FeatureStatus {
            name: (*name).to_owned(),
            state: *state,
            reason: "Any".into(),
            reference: Some(ChildRef { kind: "Any".into(), namespace: None, name: "acme".into() }),
        };
        let mut status = CustomerStatus {
            observed_generation: Some(1),
            namespace: Some("customer-acme".into()),
            run_policy: Some(RunPolicy::Running),
            features: features.iter().map(feature).collect(),
            ..CustomerStatus::default()
        };
        conditions::set_verdict(&mut status.conditions, 1, verdict);
        status
    }

    fn ready(database: FeatureState) -> CustomerStatus {
        let mut status = status(Verdict::ready("it is"), &[("database", database), ("scheduler", FeatureState::Ready)]);
        status.first_ready_at = Some(Time(Timestamp::UNIX_EPOCH));
        status
    }

    fn notes(old: Option<&CustomerStatus>, new: &CustomerStatus) -> Vec<(&'static str, String)> {
        let all = events(&customer(json!({})), old, new);
        all.into_iter().map(|event| (event.reason, event.note)).collect()
    }

    #[test]
    fn a_customer_is_created_once() {
        let new = ready(FeatureState::Ready);
        let event = ("Created", "created namespace customer-acme; features: database, scheduler".to_owned());
        assert_eq!(notes(None, &new), std::slice::from_ref(&event));
        let pending = CustomerStatus::default();
        assert_eq!(
            notes(Some(&pending), &new),
            std::slice::from_ref(&event),
            "the default status of the API server has no generation"
        );
        let on_its_way = status(Verdict::progressing(Reason::Progressing, "wait"), &[]);
        assert_eq!(notes(None, &on_its_way), []);
        assert_eq!(notes(Some(&on_its_way), &new), [event]);
        assert_eq!(notes(Some(&new), &new), []);
        let mut unready = status(Verdict::progressing(Reason::Progressing, "wait"), &[]);
        unready.first_ready_at = new.first_ready_at.clone();
        assert_eq!(notes(Some(&unready), &new), [], "it is ready again");
    }

    #[test]
    fn each_change_is_recorded_once() {
        let (on, off) = (ready(FeatureState::Ready), ready(FeatureState::Disabled));
        assert_eq!(notes(Some(&off), &on), [("FeatureEnabled", "enabled: database".to_owned())]);
        assert_eq!(notes(Some(&off), &ready(FeatureState::Progressing)).len(), 1);
        assert_eq!(notes(Some(&ready(FeatureState::Progressing)), &on), []);
        let retained = CustomerStatus { database_retained: true, ..off.clone() };
        let note = "disabled: database; its data stays on the server".to_owned();
        assert_eq!(notes(Some(&on), &retained), [("FeatureDisabled", note)]);

        let suspended = CustomerStatus { run_policy: Some(RunPolicy::Suspended), ..on.clone() };
        assert_eq!(notes(Some(&on), &suspended)[0].0, "Suspended");
        assert_eq!(notes(Some(&suspended), &on)[0].0, "Resumed");
        let unknown = CustomerStatus { run_policy: None, ..on.clone() };
        assert_eq!(notes(Some(&unknown), &suspended), [], "a release that did not report it wrote the status");
        let gold = CustomerStatus { plan: Some("gold".into()), ..on.clone() };
        let note = "changed from the built-in defaults to Plan gold".to_owned();
        assert_eq!(notes(Some(&on), &gold), [("PlanChanged", note)]);

        let at = |second| Some(Time(Timestamp::from_second(second).unwrap()));
        let before = CustomerStatus { credentials_rotated_at: at(1), ..on.clone() };
        let after = CustomerStatus { credentials_rotated_at: at(2), ..on.clone() };
        assert_eq!(notes(Some(&before), &after)[0].0, "CredentialsRotated");
        assert_eq!(notes(Some(&on), &after), [], "the first login is no rotation");
    }

    #[test]
    fn the_offboarding_event_says_whether_data_stays() {
        let mut ready = ready(FeatureState::Ready);
        ready.storage_bytes = Some(1);
        let mut leaving = ready.clone();
        conditions::set_verdict(&mut leaving.conditions, 1, Verdict::progressing(Reason::Offboarding, "waiting"));
        for (policy, word) in [("Retain", "stays"), ("Archive", "archived"), ("Delete", "deleted")] {
            let customer = customer(json!({ "deletionPolicy": policy }));
            let all = events(&customer, Some(&ready), &leaving);
            assert_eq!((all.len(), all[0].reason), (1, EventReason::Offboarding.as_str()));
            assert!(all[0].note.contains(word), "{}", all[0].note);
            assert_eq!(events(&customer, Some(&leaving), &leaving), []);
        }
    }
}
