//! One file a feature: when it is on, what child it wants, when that child is ready.
//!
//! To add one, write its file, add it to the chain in `controller.rs`, and its kind to `shared/api`.

mod connection_pool;
mod database;
mod namespace;
mod scheduler;

use std::sync::Arc;

use ahoi_api::{CUSTOMER_LABEL, ChildRef, Customer, FeatureState, namespace_of};
use ahoi_reconcile::conditions::{self, Condition, ConditionStatus};
use ahoi_reconcile::{Class, Conditioned, Error, Owned, is_ready};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{Resource as _, ResourceExt};

pub use connection_pool::ConnectionPoolFeature;
pub use database::{DatabaseFeature, database_child};
pub use namespace::{NamespaceFeature, namespace_child};
pub use scheduler::SchedulerFeature;

use crate::controller::only_child;
use crate::held::held_of;
use crate::resolve::Wanted;

/// Reason of a feature whose child is being deleted.
pub const REMOVING: &str = "Removing";

/// What the features before this one in the chain have come to.
#[derive(Debug, Default)]
pub struct Chain {
    pub namespace: Option<Arc<ahoi_api::CustomerNamespace>>,
    pub database: Option<Arc<ahoi_api::Database>>,
    pub connection_pool: Option<Arc<ahoi_api::ConnectionPool>>,
    pub scheduler: Option<Arc<ahoi_api::Scheduler>>,
}

/// What a feature wants of its child now.
#[derive(Debug)]
pub enum Desired<C> {
    /// The child, like this.
    Child(Box<C>),
    /// No child.
    Off,
    /// No child, but not yet: something still uses it.
    Linger { message: &'static str },
    /// Nothing changes until something else is ready: a child that is there stays as it is.
    Wait { reason: &'static str, message: String },
    /// Nothing changes until somebody acts: a child that is there stays as it is.
    Stall { reason: &'static str, message: String },
}

/// A feature with a child object.
pub trait Feature: Sized {
    type Child: Conditioned;
    /// As in the Customer's spec; the namespace is no feature there, but is made like one.
    const NAME: &'static str;
    /// Type of the condition on the Customer.
    const CONDITION: &'static str;

    /// Fields of the child's spec that the Customer's feature has, too, by the same names.
    const FIELDS: &'static [&'static str];
    /// Types of conditions of the child that the Customer has, too.
    const MIRRORED: &'static [&'static str] = &[];

    fn desired(wanted: &Wanted, chain: &Chain) -> Desired<Self::Child>;

    /// The child as it is, but for what always takes effect: people, suspension and rotations. Nothing of this can be refused for
    /// what else is in the spec.
    fn essential(customer: &Customer, child: &Self::Child) -> Self::Child;

    /// What the Customer's own condition says in place of a mirrored one of the child.
    fn in_words_of_the_customer(_child: &Self::Child, condition: &Condition) -> String {
        with_fields_of_the_customer::<Self>(&condition.message)
    }

    /// Whether this mirrored condition of a child that is Ready means that the customer is not served.
    fn is_outage(_condition: &Condition) -> bool {
        false
    }
}

/// How a feature is.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    pub name: &'static str,
    pub condition: &'static str,
    pub state: FeatureState,
    pub reason: String,
    pub message: String,
    pub reference: Option<ChildRef>,
    /// Conditions of the child that the Customer has, too, as they stand there.
    pub mirrored: Vec<Mirrored>,
    /// Whether the child was there before, was lost, and has just been created again.
    pub recreated: bool,
}

/// A condition of a child on its Customer.
#[derive(Clone, Debug, PartialEq)]
pub struct Mirrored {
    pub type_: &'static str,
    pub status: ConditionStatus,
    pub reason: String,
    pub message: String,
}

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
    let message = if is_refused(&reason) { advise(F::NAME, wanted, &message) } else { message };
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

/// A message of the child, whose spec people do not write, with the fields of the Customer: spec.storage is
/// spec.features.database.storage there.
pub fn with_fields_of_the_customer<F: Feature>(message: &str) -> String {
    F::FIELDS.iter().fold(message.to_owned(), |message, field| {
        message.replace(&format!("spec.{field}"), &format!("spec.features.{}.{field}", F::NAME))
    })
}

/// Whether the status of the Customer has a child for this feature, which is on.
fn was_there<F: Feature>(customer: &Customer) -> bool {
    let Some(status) = &customer.status else { return false };
    let has_child = |condition: &Condition| condition.status == "True" || condition.reason == REMOVING;
    status.features.iter().any(|f| f.name == F::NAME && f.state != FeatureState::Disabled && f.reference.is_some())
        || conditions::find(&status.conditions, F::CONDITION).is_some_and(has_child)
}

/// The conditions of a child that its Customer has, too; none of them of a child that is going.
fn mirrored<F: Feature>(child: &F::Child) -> Vec<Mirrored> {
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
fn outage<F: Feature>(child: &F::Child) -> Option<(String, String)> {
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
fn advise(feature: &str, wanted: &Wanted, refusal: &str) -> String {
    let (own, planned) = match feature {
        NamespaceFeature::NAME => ("spec.groups".to_owned(), "spec.guardrails".to_owned()),
        feature => (format!("spec.features.{feature}"), format!("spec.features.{feature}")),
    };
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

/// A feature that can be asked for and is not built yet.
pub fn not_built(name: &'static str, condition: &'static str, on: bool) -> Report {
    let (state, reason, message) = if on {
        let message = format!(
            "spec.features.{name} is not part of this release, and is enabled by the first release that has it; set \
             spec.features.{name}.enabled to false to take it out of the count"
        );
        (FeatureState::Unavailable, "NotAvailable", message)
    } else {
        (FeatureState::Disabled, "Disabled", String::new())
    };
    Report {
        name,
        condition,
        state,
        reason: reason.into(),
        message,
        reference: None,
        mirrored: Vec::new(),
        recreated: false,
    }
}

/// How a child says it is; its word counts only for the generation it has seen.
fn state_of<C: Conditioned>(child: &C) -> (FeatureState, String, String) {
    if child.meta().deletion_timestamp.is_some() {
        return (FeatureState::Progressing, REMOVING.into(), format!("the old {} is being removed", child.name_any()));
    }
    let generation = child.meta().generation;
    let said = child.status().map(C::conditions).unwrap_or_default();
    let observed = |type_| conditions::find_observed(said, type_, generation);
    if is_ready(child) {
        let message = observed("Ready").map(|c| c.message.clone()).unwrap_or_default();
        return (FeatureState::Ready, "Ready".into(), message);
    }
    if let Some(stalled) = observed("Stalled").filter(|c| c.status == "True") {
        return (FeatureState::Stalled, stalled.reason.clone(), stalled.message.clone());
    }
    match observed("Ready") {
        Some(ready) => (FeatureState::Progressing, ready.reason.clone(), ready.message.clone()),
        None => (
            FeatureState::Progressing,
            "NotReported".into(),
            format!("waiting for the controller of {} {} to report", C::kind(&()), child.name_any()),
        ),
    }
}

fn reference<C: Conditioned>(child: &C) -> ChildRef {
    ChildRef { kind: C::kind(&()).into_owned(), namespace: child.namespace(), name: child.name_any() }
}

/// Metadata of a child of kind `C`, in the customer's namespace where the kind has one. The finalizer is put there at creation: that
/// saves the child's controller a write and leaves no moment at which the child could vanish unseen.
pub fn child_meta<C: Conditioned>(customer: &str, finalizer: Option<&str>) -> ObjectMeta {
    ObjectMeta {
        name: Some(customer.to_owned()),
        namespace: (!C::cluster_scoped()).then(|| namespace_of(customer)),
        labels: Some([(CUSTOMER_LABEL.to_owned(), customer.to_owned())].into()),
        finalizers: finalizer.map(|f| vec![f.to_owned()]),
        ..ObjectMeta::default()
    }
}

/// Whether a feature has to wait for the namespace. Only one whose child is yet to be made has: what is there is kept up to
/// date, or a customer that is suspended would go on for as long as its namespace is in trouble.
fn awaits_namespace<C>(child: Option<&Arc<C>>, chain: &Chain) -> bool {
    child.is_none() && !chain.namespace.as_deref().is_some_and(is_ready)
}

/// A feature whose child is created when the namespace is Ready.
fn wait_for_namespace<C>(wanted: &Wanted) -> Desired<C> {
    let message = format!("waiting for CustomerNamespace {}: its condition NamespaceReady says why", wanted.name);
    Desired::Wait { reason: "WaitingForNamespace", message }
}

#[cfg(test)]
mod tests;
