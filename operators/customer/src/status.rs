//! The features' reports → the Customer's status. Pure.

use std::time::Duration;

use ahoi_api::{Customer, CustomerStatus, FeatureState, FeatureStatus, namespace_of};
use ahoi_reconcile::conditions::{self, Condition, ConditionStatus, DesiredCondition};
use ahoi_reconcile::{Verdict, is_ready};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::features::chain::Chain;
use crate::features::database::DatabaseFeature;
use crate::features::feature::Feature;
use crate::features::report::{Mirrored, REMOVING, Report};
use crate::features::scheduler::SchedulerFeature;
use crate::storage;
use crate::wanted::Wanted;

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
    conditions::set_verdict(&mut status.conditions, generation, verdict);
    status.observed_generation = generation;
    status.database_retained = true;
    status
}

/// Whether there is data without a Database: from when the feature is turned off until a Database has it again, which one
/// that is not Ready may not.
fn database_retained(customer: &Customer, chain: &Chain, features: &[Report]) -> bool {
    let has_it = |report: &Report| report.name == DatabaseFeature::NAME && report.state == FeatureState::Ready;
    // One that is Ready has it also where its feature is not, for a field of the spec that is not applied.
    let is_found = features.iter().any(has_it) || chain.database.as_deref().is_some_and(is_ready);
    customer.status.as_ref().is_some_and(|status| status.database_retained) && !is_found
}

/// The status of a Customer whose namespace and features reported so.
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

    CustomerStatus {
        observed_generation: generation,
        plan: wanted.plan.clone(),
        namespace: Some(namespace_of(&wanted.name)),
        summary: Some(format!("{ready}/{}", enabled.len())),
        database_retained: database_retained(customer, chain, features),
        first_ready_at: first_ready_at(customer, &conditions),
        run_policy: Some(customer.spec.run_policy),
        credentials_rotated_at: rotated_at(chain),
        storage_bytes: storage::in_force(customer, chain).and_then(|size| size.bytes().ok()),
        default_storage_bytes: default_storage(customer, wanted, features),
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

fn first_ready_at(customer: &Customer, conditions: &[Condition]) -> Option<Time> {
    let known = customer.status.as_ref().and_then(|status| status.first_ready_at.clone());
    let ready = || conditions::find(conditions, conditions::READY).filter(|ready| ready.status == "True");
    known.or_else(|| Some(ready()?.last_transition_time.clone()))
}

fn rotated_at(chain: &Chain) -> Option<Time> {
    let status = chain.database.as_ref()?.status.as_ref()?;
    Some(status.credentials.as_ref()?.rotated_at.clone())
}

/// The conditions of children, as the features report them.
fn mirror(conditions: &mut Vec<Condition>, generation: Option<i64>, features: &[Report]) {
    for type_ in [DatabaseFeature::MIRRORED, SchedulerFeature::MIRRORED].concat() {
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

/// The default of the storage that has been applied; one that is still to be applied must remain news.
fn default_storage(customer: &Customer, wanted: &Wanted, features: &[Report]) -> Option<i64> {
    let database = features.iter().find(|report| report.name == DatabaseFeature::NAME);
    match database.map(|report| report.state) {
        Some(FeatureState::Stalled) => customer.status.as_ref().and_then(|status| status.default_storage_bytes),
        _ => wanted.default_storage,
    }
}

/// Ready when everything that is built and enabled is; what needs somebody comes before what only needs time.
fn verdict(wanted: &Wanted, namespace: &Report, features: &[Report]) -> Verdict {
    let all = || std::iter::once(namespace).chain(features);
    let in_state = |state| all().filter(move |r| r.state == state).map(say).collect::<Vec<_>>();

    let held = wanted.held.iter().find(|held| held.feature.is_none());
    if let Some(held) = held {
        // Features that only wait for the same are not repeated.
        let others = all().filter(|r| r.state == FeatureState::Stalled && r.reason != held.reason).map(say);
        let message = std::iter::once(held.message.clone()).chain(others).collect::<Vec<_>>().join("; ");
        return Verdict::Stalled { reason: held.reason.into(), message };
    }
    if let Some(stalled) = all().find(|r| r.state == FeatureState::Stalled) {
        return Verdict::Stalled {
            reason: stalled.reason.clone(),
            message: in_state(FeatureState::Stalled).join("; "),
        };
    }
    // A feature that is going away is disabled and not gone: the customer is as asked only when it is.
    let removing: Vec<String> =
        all().filter(|r| r.state == FeatureState::Disabled && r.reason == REMOVING).map(say).collect();
    let waiting: Vec<String> = in_state(FeatureState::Progressing).into_iter().chain(removing).collect();
    if !waiting.is_empty() {
        return Verdict::Progressing { reason: "Progressing".into(), message: waiting.join("; ") };
    }
    Verdict::Ready { message: ready_message(wanted, features) }
}

/// What works, and what a person should know although the customer is ready.
fn ready_message(wanted: &Wanted, features: &[Report]) -> String {
    let missing: Vec<String> = features.iter().filter(|r| r.state == FeatureState::Unavailable).map(say).collect();
    let troubles: Vec<String> = features
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
    std::iter::once(works).chain(troubles).chain(missing).collect::<Vec<_>>().join("; ")
}

fn say(report: &Report) -> String {
    format!("{}: {}", report.name, if report.message.is_empty() { &report.reason } else { &report.message })
}

#[cfg(test)]
mod tests;
