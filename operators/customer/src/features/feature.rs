//! What a feature is.

use std::sync::Arc;

use ahoi_api::Customer;
use ahoi_reconcile::conditions::Condition;
use ahoi_reconcile::{Conditioned, is_ready};

use super::chain::Chain;
use crate::wanted::Wanted;

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

    /// Where people correct the child: a field of the Customer, and one of its Plan.
    fn corrected_in() -> (String, String) {
        let field = format!("spec.features.{}", Self::NAME);
        (field.clone(), field)
    }

    /// What the Customer's own condition says in place of a mirrored one of the child.
    fn in_words_of_the_customer(_child: &Self::Child, condition: &Condition) -> String {
        with_fields_of_the_customer::<Self>(&condition.message)
    }

    /// Whether this mirrored condition of a child that is Ready means that the customer is not served.
    fn is_outage(_condition: &Condition) -> bool {
        false
    }
}

/// A message of the child, whose spec people do not write, with the fields of the Customer: spec.storage is
/// spec.features.database.storage there.
pub fn with_fields_of_the_customer<F: Feature>(message: &str) -> String {
    F::FIELDS.iter().fold(message.to_owned(), |message, field| {
        message.replace(&format!("spec.{field}"), &format!("spec.features.{}.{field}", F::NAME))
    })
}

/// Whether a feature has to wait for the namespace. Only one whose child is yet to be made has: what is there is kept up to
/// date, or a customer that is suspended would go on for as long as its namespace is in trouble.
pub fn awaits_namespace<C>(child: Option<&Arc<C>>, chain: &Chain) -> bool {
    child.is_none() && !chain.namespace.as_deref().is_some_and(is_ready)
}

/// A feature whose child is created when the namespace is Ready.
pub fn wait_for_namespace<C>(wanted: &Wanted) -> Desired<C> {
    let message = format!("waiting for CustomerNamespace {}: its condition NamespaceReady says why", wanted.name);
    Desired::Wait { reason: "WaitingForNamespace", message }
}
