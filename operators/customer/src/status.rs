//! The features' reports → the Customer's status. Pure.

use std::time::Duration;

use ahoi_api::{Customer, CustomerStatus, FeatureState, FeatureStatus, namespace_of};
use ahoi_reconcile::Verdict;
use ahoi_reconcile::conditions::{self, ConditionStatus, DesiredCondition};

use crate::features::{DatabaseFeature, Feature, Report};
use crate::resolve::Wanted;

/// Type of the condition of a Customer that is not acted on.
pub const PAUSED: &str = "Paused";

/// How long a step on the way to Ready may wait to be told together with the next: children report one after the other, and
/// nearly all have by then.
pub const HOLD: Duration = Duration::from_secs(5);

/// What is told at once: a new generation, whether the customer is ready, and that somebody has to act.
pub fn substance(status: &CustomerStatus) -> (Option<i64>, Option<String>, Option<String>) {
    let find = |type_| conditions::find(&status.conditions, type_);
    (status.observed_generation, find("Ready").map(|c| c.status.clone()), find("Stalled").map(|c| c.reason.clone()))
}

/// The status of a Customer whose spec nobody acts on: as it was. But Ready is said of a spec, and of one that has changed
/// since nobody can say it.
pub fn paused(customer: &Customer) -> CustomerStatus {
    let generation = customer.metadata.generation;
    let mut status = customer.status.clone().unwrap_or_default();
    let is_current = conditions::find_observed(&status.conditions, conditions::READY, generation).is_some();
    let mut put = |type_: &str, is: ConditionStatus, reason: &str, message: &str| {
        let desired = DesiredCondition::new(type_, is, reason, message).observed_generation(generation);
        let _ = conditions::set(&mut status.conditions, desired);
    };
    put(
        PAUSED,
        ConditionStatus::True,
        "ReconcilePolicy",
        "spec.reconcilePolicy is Paused: changes wait until it is Normal",
    );
    if !is_current {
        let message = "spec.reconcilePolicy is Paused: what has changed in the spec waits until it is Normal";
        put(conditions::READY, ConditionStatus::Unknown, PAUSED, message);
        // They were said of the spec before, too, and are there only while they hold.
        conditions::remove(&mut status.conditions, conditions::RECONCILING);
        conditions::remove(&mut status.conditions, conditions::STALLED);
    }
    status
}

/// The status of a Customer whose database is about to go while the data stays. Written before it goes: what becomes of the
/// data when the Customer is deleted goes by this, and by nothing that is in memory.
pub fn retaining(customer: &Customer) -> CustomerStatus {
    let generation = customer.metadata.generation;
    let mut status = customer.status.clone().unwrap_or_default();
    conditions::remove(&mut status.conditions, PAUSED);
    let verdict = Verdict::progressing("Progressing", "database: it is being removed, and its data retained");
    conditions::settle(&mut status.conditions, generation, verdict);
    status.observed_generation = generation;
    status.database_retained = true;
    status
}

/// Whether there is data without a Database: from when the feature is turned off until a Database has it again, which one
/// that is not Ready may not.
fn database_retained(customer: &Customer, features: &[Report]) -> bool {
    let has_it = |report: &Report| report.name == DatabaseFeature::NAME && report.state == FeatureState::Ready;
    customer.status.as_ref().is_some_and(|status| status.database_retained) && !features.iter().any(has_it)
}

/// The status of a Customer whose namespace and features reported so.
pub fn status(customer: &Customer, wanted: &Wanted, namespace: &Report, features: &[Report]) -> CustomerStatus {
    let generation = customer.metadata.generation;
    let enabled: Vec<&Report> = features.iter().filter(|r| r.state != FeatureState::Disabled).collect();
    let ready = enabled.iter().filter(|r| r.state == FeatureState::Ready).count();

    let mut conditions = customer.status.as_ref().map(|s| s.conditions.clone()).unwrap_or_default();
    conditions::remove(&mut conditions, PAUSED);
    for report in std::iter::once(namespace).chain(features) {
        if report.state == FeatureState::Disabled {
            conditions::remove(&mut conditions, report.condition);
            continue;
        }
        let _ = conditions::set(
            &mut conditions,
            DesiredCondition::new(
                report.condition,
                ConditionStatus::from(report.state == FeatureState::Ready),
                &report.reason,
                &report.message,
            )
            .observed_generation(generation),
        );
    }
    conditions::settle(&mut conditions, generation, verdict(wanted, namespace, features));

    CustomerStatus {
        observed_generation: generation,
        plan: wanted.plan.clone(),
        namespace: Some(namespace_of(&wanted.name)),
        summary: Some(format!("{ready}/{}", enabled.len())),
        database_retained: database_retained(customer, features),
        storage_bytes: wanted.database.as_ref().and_then(|d| d.storage.bytes().ok()),
        features: features
            .iter()
            .map(|r| FeatureStatus {
                name: r.name.to_owned(),
                state: r.state,
                reason: r.reason.clone(),
                reference: r.reference.clone(),
            })
            .collect(),
        conditions,
    }
}

/// Ready when everything that is built and enabled is; what needs somebody comes before what only needs time.
fn verdict(wanted: &Wanted, namespace: &Report, features: &[Report]) -> Verdict {
    let all = || std::iter::once(namespace).chain(features);
    let say = |r: &Report| format!("{}: {}", r.name, if r.message.is_empty() { &r.reason } else { &r.message });
    let in_state = |state| all().filter(move |r| r.state == state).map(say).collect::<Vec<_>>();

    if let Some(stalled) = all().find(|r| r.state == FeatureState::Stalled) {
        return Verdict::Stalled {
            reason: stalled.reason.clone(),
            message: in_state(FeatureState::Stalled).join("; "),
        };
    }
    // A feature that is going away is disabled and not gone: the customer is as asked only when it is.
    let removing: Vec<String> =
        all().filter(|r| r.state == FeatureState::Disabled && r.reason == "Removing").map(say).collect();
    let waiting: Vec<String> = in_state(FeatureState::Progressing).into_iter().chain(removing).collect();
    if !waiting.is_empty() {
        return Verdict::Progressing { reason: "Progressing".into(), message: waiting.join("; ") };
    }
    let missing = in_state(FeatureState::Unavailable);
    let mut message = if wanted.suspended {
        "suspended: workers and jobs are stopped, the data is kept".to_owned()
    } else {
        "all features are ready".to_owned()
    };
    if !missing.is_empty() {
        message = format!("{message}; {}", missing.join("; "));
    }
    Verdict::Ready { message }
}

#[cfg(test)]
#[path = "status_tests.rs"]
mod tests;
