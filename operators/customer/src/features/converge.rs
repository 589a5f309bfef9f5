//! Makes the child of a feature as desired.

use std::sync::Arc;

use ahoi_api::{ChildRef, Customer, FeatureState};
use ahoi_reconcile::conditions::{self, Condition, ConditionStatus};
use ahoi_reconcile::{Class, Conditioned, Error, Owned};
use kube::{Resource as _, ResourceExt};

use super::chain::Chain;
use super::feature::{Desired, Feature, with_fields_of_the_customer};
use super::report::{Mirrored, REMOVING, Report, state_of};
use crate::children::only_child;
use crate::held::held_of;
use crate::wanted::Wanted;

/// Makes the child of `F` as desired, and reports its state. The child comes back for the features that build on it.
///
/// What one feature cannot have stops no other: a write that failed and is worth a retry goes to `failed`, and the reconcile
/// ends with it when all features had their turn.
pub async fn converge<F: Feature>(
    children: &Owned<F::Child>,
    customer: &Customer,
    wanted: &Wanted,
    chain: &Chain,
    failed: &mut Option<Error>,
) -> (Option<Arc<F::Child>>, Report) {
    let existing = only_child(children, customer);
    let is_lost = existing.is_none();
    let (state, reason, message, child) = match F::desired(wanted, chain) {
        Desired::Off => match removed_if_any(children, customer, existing.clone()).await {
            Ok(None) => (FeatureState::Disabled, "Disabled".into(), String::new(), None),
            Ok(Some(child)) => {
                let message = format!("{} is being removed", child.name_any());
                (FeatureState::Disabled, REMOVING.into(), message, Some(child))
            }
            Err(error) => not_applied(FeatureState::Disabled, error, existing, failed),
        },
        Desired::Linger { message } => (FeatureState::Disabled, REMOVING.into(), message.into(), existing),
        Desired::Wait { reason, message } => (FeatureState::Progressing, reason.into(), message, existing),
        Desired::Stall { reason, message } => (FeatureState::Stalled, reason.into(), message, existing),
        Desired::Child(child) => match applied(children, customer, existing.clone(), *child).await {
            Ok(child) => {
                let (state, reason, message) = state_of(&*child);
                let is_own = !is_refused(&reason);
                let message = if is_own { with_fields_of_the_customer::<F>(&message) } else { message };
                (state, reason, message, Some(child))
            }
            Err(error) => {
                let existing = apply_essential::<F>(children, customer, existing, &error, failed).await;
                not_applied(FeatureState::Progressing, error, existing, failed)
            }
        },
    };
    let message = if is_refused(&reason) { advise::<F>(wanted, &message) } else { message };
    let mirrored = child.as_deref().map(mirrored::<F>).unwrap_or_default();
    let outage = child.as_deref().filter(|_| state == FeatureState::Ready).and_then(outage::<F>);
    let (state, reason, message) = match outage {
        Some((reason, message)) => (FeatureState::Stalled, reason, message),
        None => (state, reason, message),
    };
    let (state, reason, message) = match held_of(&wanted.held, F::NAME) {
        None => (state, reason, message),
        Some((reason, held)) if matches!(state, FeatureState::Ready | FeatureState::Disabled) => {
            (FeatureState::Stalled, reason.into(), held)
        }
        Some((reason, held)) => (FeatureState::Stalled, reason.into(), format!("{held}; {message}")),
    };
    let report = Report {
        name: F::NAME,
        condition: F::CONDITION,
        state,
        reason,
        message,
        reference: child.as_deref().map(reference::<F::Child>),
        mirrored,
        recreated: was_there::<F>(customer) && is_lost && child.is_some(),
    };
    (child, report)
}

/// Whether the status of the Customer has a child for this feature, which is on.
fn was_there<F: Feature>(customer: &Customer) -> bool {
    let Some(status) = &customer.status else { return false };
    let has_child = |condition: &Condition| condition.status == "True" || condition.reason == REMOVING;
    status.features.iter().any(|f| f.name == F::NAME && f.state != FeatureState::Disabled && f.reference.is_some())
        || conditions::find(&status.conditions, F::CONDITION).is_some_and(has_child)
}

/// The conditions of a child that its Customer has, too; none of them of a child that is going.
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

/// Why a customer is not served although the child is Ready.
pub fn outage<F: Feature>(child: &F::Child) -> Option<(String, String)> {
    let conditions = child.status().map(F::Child::conditions).unwrap_or_default();
    let condition =
        F::MIRRORED.iter().filter_map(|type_| conditions::find(conditions, type_)).find(|c| F::is_outage(c))?;
    Some((condition.reason.clone(), F::in_words_of_the_customer(child, condition)))
}

/// Whether the API server refused an object, for its size or for a value in it.
pub fn is_refused(reason: &str) -> bool {
    matches!(reason, "Refused" | "TooLarge")
}

/// Where to correct what the API server refused: its own words name the object and the field that was made from these.
fn advise<F: Feature>(wanted: &Wanted, refusal: &str) -> String {
    let (own, planned) = F::corrected_in();
    let plan = wanted.plan.as_ref().map(|plan| format!(" or {planned} of the Plan {plan}")).unwrap_or_default();
    format!("{}; correct {own} of the Customer{plan}", refusal.trim_end_matches('.'))
}

/// Where the API server refuses the child as desired, has what always takes effect take effect on the one that is there.
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

/// The state of a feature whose child could not be written: what is there stays. `otherwise`: while a retry may help.
fn not_applied<C: Conditioned>(
    otherwise: FeatureState,
    error: Error,
    existing: Option<Arc<C>>,
    failed: &mut Option<Error>,
) -> (FeatureState, String, String, Option<Arc<C>>) {
    let (reason, message) = (error.reason().to_owned(), error.to_string());
    let state = match error.class() {
        Class::Structural | Class::Terminal => FeatureState::Stalled,
        Class::Waiting => FeatureState::Progressing,
        Class::Transient | Class::Conflict => {
            failed.get_or_insert(error);
            otherwise
        }
    };
    (state, reason, message, existing)
}

async fn removed_if_any<C: Conditioned>(
    children: &Owned<C>,
    customer: &Customer,
    existing: Option<Arc<C>>,
) -> Result<Option<Arc<C>>, Error> {
    match existing {
        None => Ok(None),
        Some(child) => removed(children, customer, &child).await,
    }
}

/// Has the child deleted; what is left of it while it is cleaned up.
pub async fn removed<C: Conditioned>(
    children: &Owned<C>,
    customer: &Customer,
    child: &C,
) -> Result<Option<Arc<C>>, Error> {
    if child.meta().deletion_timestamp.is_none() {
        children.delete(child).await?;
    }
    Ok(only_child(children, customer))
}

/// The child as desired; one that is still going is left to go, and made anew when it is gone.
async fn applied<C: Conditioned>(
    children: &Owned<C>,
    customer: &Customer,
    existing: Option<Arc<C>>,
    desired: C,
) -> Result<Arc<C>, Error> {
    match existing.filter(|child| child.meta().deletion_timestamp.is_some()) {
        Some(going) => Ok(going),
        None => children.apply(customer, desired).await,
    }
}

fn reference<C: Conditioned>(child: &C) -> ChildRef {
    ChildRef { kind: C::kind(&()).into_owned(), namespace: child.namespace(), name: child.name_any() }
}
