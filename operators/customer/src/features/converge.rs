//! The reconcile of one feature: its child is created, updated or deleted, and its state is reported.

use std::sync::Arc;

use ahoi_api::{ChildRef, Customer, FeatureState, Reason};
use ahoi_reconcile::conditions::{self, Condition, ConditionStatus};
use ahoi_reconcile::{Class, Conditioned, Error, Owned};
use kube::{Resource as _, ResourceExt};

use super::chain::Chain;
use super::feature::{Desired, Feature, with_fields_of_the_customer};
use super::remove::delete;
use super::report::{Mirrored, Report, state_of};
use crate::children::only_child;
use crate::held::held_of;
use crate::wanted::Wanted;

/// Applies the child of `F`, and returns it with the report of the feature.
///
/// A feature that fails blocks no other: an error that is worth a retry is stored in `failed`, and returned by the reconcile when
/// all features have been applied.
pub async fn converge<F: Feature>(
    children: &Owned<F::Child>,
    customer: &Customer,
    wanted: &Wanted,
    chain: &Chain,
    failed: &mut Option<Error>,
) -> (Option<Arc<F::Child>>, Report) {
    let existing = only_child(children, customer);
    let is_lost = existing.is_none();
    let mut outcome = apply::<F>(children, customer, wanted, chain, existing, failed).await;
    if is_refused(&outcome.reason) {
        outcome.message = advise::<F>(wanted, &outcome.message);
    }
    let outcome = with_held::<F>(wanted, with_outage::<F>(outcome));
    let report = Report {
        name: F::NAME,
        condition: F::CONDITION,
        state: outcome.state,
        reason: outcome.reason,
        message: outcome.message,
        reference: outcome.child.as_deref().map(reference::<F::Child>),
        mirrors: F::MIRRORED,
        mirrored: outcome.child.as_deref().map(mirrored::<F>).unwrap_or_default(),
        recreated: is_lost && outcome.child.is_some() && was_there::<F>(customer),
    };
    (outcome.child, report)
}

/// The state of a feature, and its child.
struct Outcome<C> {
    state: FeatureState,
    reason: String,
    message: String,
    child: Option<Arc<C>>,
}

impl<C> Outcome<C> {
    fn new(state: FeatureState, reason: impl Into<String>, message: impl Into<String>, child: Option<Arc<C>>) -> Self {
        Self { state, reason: reason.into(), message: message.into(), child }
    }
}

async fn apply<F: Feature>(
    children: &Owned<F::Child>,
    customer: &Customer,
    wanted: &Wanted,
    chain: &Chain,
    existing: Option<Arc<F::Child>>,
    failed: &mut Option<Error>,
) -> Outcome<F::Child> {
    match F::desired(wanted, chain) {
        Desired::Off => match delete_if_any(children, customer, existing.clone()).await {
            Ok(None) => Outcome::new(FeatureState::Disabled, Reason::Disabled, "", None),
            Ok(Some(child)) => {
                let message = format!("{} {} is being deleted", F::Child::kind(&()), child.name_any());
                Outcome::new(FeatureState::Disabled, Reason::Removing, message, Some(child))
            }
            Err(error) => not_applied(FeatureState::Disabled, error, existing, failed),
        },
        Desired::Linger { message } => Outcome::new(FeatureState::Disabled, Reason::Removing, message, existing),
        Desired::Wait { reason, message } => Outcome::new(FeatureState::Progressing, reason, message, existing),
        Desired::Stall { reason, message } => Outcome::new(FeatureState::Stalled, reason, message, existing),
        Desired::Child(child) => match create_or_update(children, customer, existing.clone(), *child).await {
            Ok(child) => {
                let (state, reason, message) = state_of(&*child);
                let message = if is_refused(&reason) { message } else { with_fields_of_the_customer::<F>(&message) };
                Outcome::new(state, reason, message, Some(child))
            }
            Err(error) => {
                let existing = apply_essential::<F>(children, customer, existing, &error, failed).await;
                let mut outcome = not_applied(FeatureState::Progressing, error, existing, failed);
                if outcome.reason == Reason::TooLarge.as_str() {
                    outcome.message = with_size::<F>(wanted, chain, &outcome.message);
                }
                outcome
            }
        },
    }
}

/// Creates or updates the child. One that is being deleted is created again when it no longer exists.
async fn create_or_update<C: Conditioned>(
    children: &Owned<C>,
    customer: &Customer,
    existing: Option<Arc<C>>,
    desired: C,
) -> Result<Arc<C>, Error> {
    match existing.filter(|child| child.meta().deletion_timestamp.is_some()) {
        Some(deleted) => Ok(deleted),
        None => children.apply(customer, desired).await,
    }
}

async fn delete_if_any<C: Conditioned>(
    children: &Owned<C>,
    customer: &Customer,
    existing: Option<Arc<C>>,
) -> Result<Option<Arc<C>>, Error> {
    match existing {
        None => Ok(None),
        Some(child) => delete(children, customer, &child).await,
    }
}

/// If the API server refuses the desired child, applies to the existing one what takes effect regardless of the rest.
async fn apply_essential<F: Feature>(
    children: &Owned<F::Child>,
    customer: &Customer,
    existing: Option<Arc<F::Child>>,
    refusal: &Error,
    failed: &mut Option<Error>,
) -> Option<Arc<F::Child>> {
    let child = existing?;
    if !is_refused(refusal.reason()) {
        return Some(child);
    }
    match children.apply(customer, F::essential(customer, &child)).await {
        Ok(child) => Some(child),
        Err(error) => {
            if matches!(error.class(), Class::Transient | Class::Conflict) {
                failed.get_or_insert(error);
            }
            Some(child)
        }
    }
}

/// A feature whose child could not be written and stays as it is. `retrying`: the state while a retry may help.
fn not_applied<C: Conditioned>(
    retrying: FeatureState,
    error: Error,
    existing: Option<Arc<C>>,
    failed: &mut Option<Error>,
) -> Outcome<C> {
    let state = match error.class() {
        Class::Structural | Class::Terminal => FeatureState::Stalled,
        Class::Waiting => FeatureState::Progressing,
        Class::Transient | Class::Conflict => retrying,
    };
    let outcome = Outcome::new(state, error.reason(), error.to_string(), existing);
    if matches!(error.class(), Class::Transient | Class::Conflict) {
        failed.get_or_insert(error);
    }
    outcome
}

/// A Ready child that does not serve the customer makes the feature Stalled.
fn with_outage<F: Feature>(outcome: Outcome<F::Child>) -> Outcome<F::Child> {
    let child = outcome.child.as_deref().filter(|_| outcome.state == FeatureState::Ready);
    match child.and_then(outage::<F>) {
        Some((reason, message)) => Outcome { state: FeatureState::Stalled, reason, message, ..outcome },
        None => outcome,
    }
}

/// A field that is not applied makes the feature Stalled.
fn with_held<F: Feature>(wanted: &Wanted, outcome: Outcome<F::Child>) -> Outcome<F::Child> {
    let Some((reason, held)) = held_of(&wanted.held, F::NAME) else { return outcome };
    let message = match outcome.state {
        FeatureState::Ready | FeatureState::Disabled => held,
        _ => format!("{held}; {}", outcome.message),
    };
    Outcome { state: FeatureState::Stalled, reason: reason.into(), message, ..outcome }
}

/// Whether the API server refused an object, for its size or for one of its values.
pub fn is_refused(reason: &str) -> bool {
    matches!(Reason::parse(reason), Some(Reason::Refused | Reason::TooLarge))
}

/// etcd's message does not name the object that it does not store.
fn with_size<F: Feature>(wanted: &Wanted, chain: &Chain, message: &str) -> String {
    let Desired::Child(child) = F::desired(wanted, chain) else { return message.to_owned() };
    let kibibytes = serde_json::to_vec(&child).unwrap_or_default().len() / 1024;
    format!("{} {} has {kibibytes} KiB: {message}", F::Child::kind(&()), child.name_any())
}

/// A refusal with the fields to correct. The API server names the child and a field of it, which people do not write.
fn advise<F: Feature>(wanted: &Wanted, refusal: &str) -> String {
    let (own, planned) = F::corrected_in();
    let plan = wanted.plan.as_ref().map(|plan| format!(" or {planned} of the Plan {plan}")).unwrap_or_default();
    format!("{}; correct {own} of the Customer{plan}", refusal.trim_end_matches('.'))
}

/// Whether the Customer's status has a child of this feature.
fn was_there<F: Feature>(customer: &Customer) -> bool {
    let Some(status) = &customer.status else { return false };
    let has_child = |condition: &Condition| condition.status == "True" || condition.reason == Reason::Removing;
    status.features.iter().any(|f| f.name == F::NAME && f.state != FeatureState::Disabled && f.reference.is_some())
        || conditions::find(&status.conditions, F::CONDITION).is_some_and(has_child)
}

/// The conditions of a child that its Customer repeats. A child that is being deleted has none.
pub fn mirrored<F: Feature>(child: &F::Child) -> Vec<Mirrored> {
    if child.meta().deletion_timestamp.is_some() {
        return Vec::new();
    }
    let conditions = child.status().map(F::Child::conditions).unwrap_or_default();
    let found = F::MIRRORED.iter().filter_map(|type_| Some((*type_, conditions::find(conditions, type_)?)));
    let mirrored = found.map(|(type_, condition)| Mirrored {
        type_,
        status: match condition.status.as_str() {
            "True" => ConditionStatus::True,
            "False" => ConditionStatus::False,
            _ => ConditionStatus::Unknown,
        },
        reason: condition.reason.clone(),
        message: F::in_words_of_the_customer(child, condition),
    });
    mirrored.collect()
}

/// Why a Ready child does not serve the customer.
pub fn outage<F: Feature>(child: &F::Child) -> Option<(String, String)> {
    let conditions = child.status().map(F::Child::conditions).unwrap_or_default();
    let condition =
        F::MIRRORED.iter().filter_map(|type_| conditions::find(conditions, type_)).find(|c| F::is_outage(c))?;
    Some((condition.reason.clone(), F::in_words_of_the_customer(child, condition)))
}

fn reference<C: Conditioned>(child: &C) -> ChildRef {
    ChildRef { kind: C::kind(&()).into_owned(), namespace: child.namespace(), name: child.name_any() }
}
