//! One file a feature: when it is on, what child it wants, when that child is ready.
//!
//! To add one, write its file, add it to the chain in `controller.rs`, and its kind to `shared/api`.

mod connection_pool;
mod database;
mod namespace;
mod scheduler;

use std::sync::Arc;

use ahoi_api::{CUSTOMER_LABEL, ChildRef, Customer, FeatureState, namespace_of};
use ahoi_reconcile::{Class, Conditioned, Error, Owned, conditions, is_ready};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt;

pub use connection_pool::ConnectionPoolFeature;
pub use database::{DatabaseFeature, database_child};
pub use namespace::NamespaceFeature;
pub use scheduler::SchedulerFeature;

use crate::controller::only_child;
use crate::resolve::Wanted;

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
pub trait Feature {
    type Child: Conditioned;
    /// As in the Customer's spec; the namespace is no feature there, but is made like one.
    const NAME: &'static str;
    /// Type of the condition on the Customer.
    const CONDITION: &'static str;

    fn desired(wanted: &Wanted, chain: &Chain) -> Result<Desired<Self::Child>, Error>;
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
}

/// Makes the child of `F` so, and says how it is. The child comes back for the features that build on it.
pub async fn converge<F: Feature>(
    children: &Owned<F::Child>,
    customer: &Customer,
    wanted: &Wanted,
    chain: &Chain,
) -> Result<(Option<Arc<F::Child>>, Report), Error> {
    let existing = only_child(children, customer);
    let (state, reason, message, child) = match F::desired(wanted, chain)? {
        Desired::Off => match existing {
            None => (FeatureState::Disabled, "Disabled".into(), String::new(), None),
            Some(child) => match removed(children, customer, &child).await? {
                None => (FeatureState::Disabled, "Disabled".into(), String::new(), None),
                Some(child) => {
                    let message = format!("{} is being removed", child.name_any());
                    (FeatureState::Disabled, "Removing".into(), message, Some(child))
                }
            },
        },
        Desired::Linger { message } => (FeatureState::Disabled, "Removing".into(), message.into(), existing),
        Desired::Wait { reason, message } => (FeatureState::Progressing, reason.into(), message, existing),
        Desired::Stall { reason, message } => (FeatureState::Stalled, reason.into(), message, existing),
        Desired::Child(child) => match applied(children, customer, existing.clone(), *child).await {
            Ok(child) => {
                let (state, reason, message) = state_of(&*child);
                (state, reason, message, Some(child))
            }
            // What one feature cannot have is that feature's to say; the others go on.
            Err(error) if matches!(error.class(), Class::Structural | Class::Terminal) => {
                (FeatureState::Stalled, error.reason().to_owned(), error.to_string(), existing)
            }
            Err(error) => return Err(error),
        },
    };
    let report = Report {
        name: F::NAME,
        condition: F::CONDITION,
        state,
        reason,
        message,
        reference: child.as_deref().map(reference::<F::Child>),
    };
    Ok((child, report))
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
        let message = format!("{name} is not part of this release; it starts by itself with the first that has it");
        (FeatureState::Unavailable, "NotAvailable", message)
    } else {
        (FeatureState::Disabled, "Disabled", String::new())
    };
    Report { name, condition, state, reason: reason.into(), message, reference: None }
}

/// How a child says it is; its word counts only for the generation it has seen.
fn state_of<C: Conditioned>(child: &C) -> (FeatureState, String, String) {
    if child.meta().deletion_timestamp.is_some() {
        return (
            FeatureState::Progressing,
            "Removing".into(),
            format!("the old {} is being removed", child.name_any()),
        );
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
        None => (FeatureState::Progressing, "NotReported".into(), "its controller has not reported yet".into()),
    }
}

fn reference<C: Conditioned>(child: &C) -> ChildRef {
    ChildRef { kind: C::kind(&()).into_owned(), namespace: child.namespace(), name: child.name_any() }
}

/// Metadata of a child in the customer's namespace. The finalizer is put there at creation: that saves the child's
/// controller a write and leaves no moment at which the child could vanish unseen.
fn child_meta(customer: &str, finalizer: Option<&str>) -> ObjectMeta {
    ObjectMeta {
        name: Some(customer.to_owned()),
        namespace: Some(namespace_of(customer)),
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

/// What a feature says while the namespace is not there.
fn wait_for_namespace<C>() -> Desired<C> {
    Desired::Wait { reason: "WaitingForNamespace", message: "waiting for the customer's namespace".into() }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
