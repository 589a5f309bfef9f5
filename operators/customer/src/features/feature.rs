//! What a feature is.

use std::future::{self, Future};
use std::sync::Arc;

use ahoi_api::{Customer, CustomerStatus, Features, Reason};
use ahoi_reconcile::conditions::Condition;
use ahoi_reconcile::{Conditioned, Error, is_ready};
use kube::core::object::HasSpec;

use super::chain::Chain;
use super::inputs::Inputs;
use super::report::Report;
use crate::offboarding::Offboarding;
use crate::wanted::Wanted;

/// The spec of the child of the feature `F`.
pub type Spec<F> = <<F as Feature>::Child as HasSpec>::Spec;

/// A feature of a Customer, with a child object. The functions are in the order in which they are called.
pub trait Feature: Sized {
    type Child: Conditioned + HasSpec<Spec: Clone> + PartialEq;
    /// Name of the feature in `spec.features` of the Customer. The namespace is treated like a feature, and is not listed there.
    const NAME: &'static str;
    /// Type of the condition on the Customer.
    const CONDITION: &'static str;
    /// Fields that the feature has in common with the spec of the child.
    const FIELDS: &'static [&'static str];
    /// Types of conditions of the child that are repeated on the Customer.
    const MIRRORED: &'static [&'static str] = &[];

    /// Whether these features enable this one. `None`: they leave it to the Plan, or to the built-in default.
    fn enabled(features: &Features) -> Option<bool>;

    /// The spec of the child: the fields of the Customer, else those of the Plan. `None`: the feature is off, or cannot be created.
    /// A field that cannot be applied is added to `wanted.held`.
    fn resolve(inputs: &Inputs<'_>, wanted: &mut Wanted) -> Option<Spec<Self>>;

    /// Applies the limits of the Plan, and what depends on other features, to the resolved spec in `wanted`.
    fn adjust(_inputs: &Inputs<'_>, _wanted: &mut Wanted) {}

    /// Whether a child can stay while the Plan is missing: whether the features that it depends on stay.
    fn can_stay(_wanted: &Wanted) -> bool {
        true
    }

    /// What to do with the child now.
    fn desired(wanted: &Wanted, chain: &Chain) -> Desired<Self::Child>;

    /// The existing child, with only the changes that take effect regardless of the rest of the spec: groups, suspension and
    /// rotations.
    fn essential(customer: &Customer, child: &Self::Child) -> Self::Child;

    /// The fields of the Customer and of the Plan from which the child is made, for messages.
    fn corrected_in() -> (String, String) {
        let field = format!("spec.features.{}", Self::NAME);
        (field.clone(), field)
    }

    /// The message on the Customer for a mirrored condition of the child.
    fn in_words_of_the_customer(_child: &Self::Child, condition: &Condition) -> String {
        with_fields_of_the_customer::<Self>(&condition.message)
    }

    /// Whether this mirrored condition of a Ready child means that the customer is not served.
    fn is_outage(_condition: &Condition) -> bool {
        false
    }

    /// Sets the fields of the Customer's status that only this feature has.
    fn record(_status: &mut CustomerStatus, _observed: &Observed<'_>) {}

    /// Prepares the removal with a deleted Customer. `Ok(false)`: the CustomResourceDefinition is being deleted, nothing is removed.
    fn prepare_removal(_offboarding: &Offboarding<'_>) -> impl Future<Output = Result<bool, Error>> + Send {
        future::ready(Ok(true))
    }

    /// Copies the deletion policy of a deleted Customer to the child before the child is deleted.
    fn apply_deletion_policy(_customer: &Customer, _child: &mut Self::Child) {}
}

/// What to do with the child of a feature.
#[derive(Debug)]
pub enum Desired<C> {
    /// Create or update it.
    Child(Box<C>),
    /// Delete it.
    Off,
    /// Delete it later: something still uses it.
    Linger { message: &'static str },
    /// Leave it unchanged until another object is ready.
    Wait { reason: Reason, message: String },
    /// Leave it unchanged until a person corrects a field.
    Stall { reason: Reason, message: String },
}

/// What a feature can record in the status of a Customer.
#[derive(Clone, Copy)]
pub struct Observed<'a> {
    pub customer: &'a Customer,
    pub wanted: &'a Wanted,
    pub chain: &'a Chain,
    /// The report of the feature.
    pub report: Option<&'a Report>,
}

/// A message of the child with field names of the Customer: `spec.storage` becomes `spec.features.database.storage`.
pub fn with_fields_of_the_customer<F: Feature>(message: &str) -> String {
    F::FIELDS.iter().fold(message.to_owned(), |message, field| {
        message.replace(&format!("spec.{field}"), &format!("spec.features.{}.{field}", F::NAME))
    })
}

/// Whether a feature waits for the namespace. An existing child does not: it is updated even if the namespace is in trouble, so
/// that a customer can always be suspended.
pub fn awaits_namespace<C>(child: Option<&Arc<C>>, chain: &Chain) -> bool {
    child.is_none() && !chain.namespace.as_deref().is_some_and(is_ready)
}

/// A feature whose child is created when the namespace is Ready.
pub fn wait_for_namespace<C>(wanted: &Wanted) -> Desired<C> {
    let message = format!("waiting for CustomerNamespace {}: see the condition NamespaceReady", wanted.name);
    Desired::Wait { reason: Reason::WaitingForNamespace, message }
}
