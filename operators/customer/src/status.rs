//! The reports of the features → the status of the Customer. Pure.

use std::time::Duration;

use ahoi_api::{Customer, CustomerStatus, FeatureState, FeatureStatus, Reason, namespace_of};
use ahoi_reconcile::Verdict;
use ahoi_reconcile::conditions::{self, Condition, ConditionStatus, DesiredCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::features::chain::Chain;
use crate::features::registry::record_all;
use crate::features::report::{Mirrored, Report};
use crate::wanted::Wanted;

/// Type of the condition of a Customer that is not reconciled.
pub const PAUSED: &str = "Paused";

/// How long a step towards Ready waits to be written together with the next. Nearly all children have reported by then.
pub const PROGRESS_DELAY: Duration = Duration::from_secs(5);

/// What is written at once: a new generation, whether the customer is Ready, and the reason of Stalled.
pub fn written_at_once(status: &CustomerStatus) -> (Option<i64>, Option<String>, Option<String>) {
    let find = |type_| conditions::find(&status.conditions, type_);
    (status.observed_generation, find("Ready").map(|c| c.status.clone()), find("Stalled").map(|c| c.reason.clone()))
}

/// The status of a paused Customer: unchanged, except that Ready is Unknown if the spec has changed.
pub fn paused(customer: &Customer) -> CustomerStatus {
    let generation = customer.metadata.generation;
    let mut status = customer.status.clone().unwrap_or_default();
    let is_current = conditions::find_observed(&status.conditions, conditions::READY, generation).is_some();
    let mut put = |type_: &str, is: ConditionStatus, reason: Reason, message: &str| {
        let desired = DesiredCondition::new(type_, is, reason, message).observed_generation(generation);
        let _ = conditions::set(&mut status.conditions, desired);
    };
    put(
        PAUSED,
        ConditionStatus::True,
        Reason::ReconcilePolicy,
        "spec.reconcilePolicy is Paused: set it to Normal to apply changes",
    );
    if !is_current {
        let message = "spec.reconcilePolicy is Paused, and the spec has changed: set it to Normal to apply the change";
        put(conditions::READY, ConditionStatus::Unknown, Reason::Paused, message);
        // They belong to the previous spec.
        conditions::remove(&mut status.conditions, conditions::RECONCILING);
        conditions::remove(&mut status.conditions, conditions::STALLED);
    }
    status
}

/// The status of a Customer whose Database is about to be deleted while the data stays. It is written before the deletion: whether
/// the data is archived or deleted with the Customer depends on it.
pub fn retaining(customer: &Customer) -> CustomerStatus {
    let generation = customer.metadata.generation;
    let mut status = customer.status.clone().unwrap_or_default();
    conditions::remove(&mut status.conditions, PAUSED);
    let verdict =
        Verdict::progressing(Reason::Progressing, "database: turning off the feature; the data stays on its server");
    conditions::set_verdict(&mut status.conditions, generation, verdict);
    status.observed_generation = generation;
    status.database_retained = true;
    status
}

/// The status of a Customer with these reports.
pub fn status(
    customer: &Customer,
    wanted: &Wanted,
    chain: &Chain,
    namespace: &Report,
    features: &[Report],
) -> CustomerStatus {
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
    mirror(&mut conditions, generation, features);
    conditions::set_verdict(&mut conditions, generation, verdict(wanted, namespace, features));

    let mut status = CustomerStatus {
        observed_generation: generation,
        plan: wanted.plan.clone(),
        namespace: Some(namespace_of(&wanted.name)),
        enabled_features: i32::try_from(enabled.len()).ok(),
        ready_features: i32::try_from(ready).ok(),
        first_ready_at: first_ready_at(customer, &conditions),
        run_policy: Some(customer.spec.run_policy),
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
        ..CustomerStatus::default()
    };
    record_all(&mut status, customer, wanted, chain, features);
    status
}

fn first_ready_at(customer: &Customer, conditions: &[Condition]) -> Option<Time> {
    let known = customer.status.as_ref().and_then(|status| status.first_ready_at.clone());
    let ready = || conditions::find(conditions, conditions::READY).filter(|ready| ready.status == "True");
    known.or_else(|| Some(ready()?.last_transition_time.clone()))
}

/// Repeats conditions of the children.
fn mirror(conditions: &mut Vec<Condition>, generation: Option<i64>, features: &[Report]) {
    for &type_ in features.iter().flat_map(|report| report.mirrors) {
        match features.iter().flat_map(|report| &report.mirrored).find(|mirrored| mirrored.type_ == type_) {
            None => {
                conditions::remove(conditions, type_);
            }
            Some(Mirrored { status, reason, message, .. }) => {
                let desired = DesiredCondition::new(type_, *status, reason, message);
                let _ = conditions::set(conditions, desired.observed_generation(generation));
            }
        }
    }
}

/// Ready if every enabled and available feature is. What a person has to correct comes before what only takes time.
fn verdict(wanted: &Wanted, namespace: &Report, features: &[Report]) -> Verdict {
    let all = || std::iter::once(namespace).chain(features);
    let in_state = |state| all().filter(move |r| r.state == state).map(describe).collect::<Vec<_>>();

    let held = wanted.held.iter().find(|held| held.feature.is_none());
    if let Some(held) = held {
        // Features that wait for the same are not listed.
        let others = all().filter(|r| r.state == FeatureState::Stalled && r.reason != held.reason).map(describe);
        let message = std::iter::once(held.message.clone()).chain(others).collect::<Vec<_>>().join("; ");
        return Verdict::Stalled { reason: held.reason.into(), message };
    }
    if let Some(stalled) = all().find(|r| r.state == FeatureState::Stalled) {
        return Verdict::Stalled {
            reason: stalled.reason.clone(),
            message: in_state(FeatureState::Stalled).join("; "),
        };
    }
    // A disabled feature counts until its child no longer exists.
    let removing: Vec<String> =
        all().filter(|r| r.state == FeatureState::Disabled && r.reason == Reason::Removing).map(describe).collect();
    let waiting: Vec<String> = in_state(FeatureState::Progressing).into_iter().chain(removing).collect();
    if !waiting.is_empty() {
        return Verdict::Progressing { reason: Reason::Progressing.into(), message: waiting.join("; ") };
    }
    Verdict::Ready { message: ready_message(wanted, features) }
}

/// What works, and what a person should know although the customer is Ready.
fn ready_message(wanted: &Wanted, features: &[Report]) -> String {
    let missing: Vec<String> = features.iter().filter(|r| r.state == FeatureState::Unavailable).map(describe).collect();
    let problems: Vec<String> = features
        .iter()
        .flat_map(|report| report.mirrored.iter().map(move |mirrored| (report, mirrored)))
        .filter(|(_, mirrored)| mirrored.status == ConditionStatus::False)
        .map(|(report, mirrored)| format!("{}: {}", report.name, mirrored.message))
        .collect();
    let works = if wanted.suspended {
        "suspended: workers and jobs are stopped, the data is kept".to_owned()
    } else if missing.is_empty() {
        "all features are ready".to_owned()
    } else {
        let enabled = features.iter().filter(|r| r.state != FeatureState::Disabled).count();
        format!("{} of {enabled} enabled features are ready", enabled - missing.len())
    };
    std::iter::once(works).chain(problems).chain(missing).collect::<Vec<_>>().join("; ")
}

fn describe(report: &Report) -> String {
    format!("{}: {}", report.name, if report.message.is_empty() { &report.reason } else { &report.message })
}

#[cfg(test)]
mod tests;
