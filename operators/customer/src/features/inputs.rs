//! What the desired state of a customer is made from.

use std::collections::BTreeMap;

use ahoi_api::{Customer, Features, Plan};

use super::chain::Chain;

/// A Customer, its Plan and what it has now.
#[derive(Clone, Copy)]
pub struct Inputs<'a> {
    pub customer: &'a Customer,
    pub plan: Option<&'a Plan>,
    /// The children as they are. A field that cannot be applied keeps its value from here.
    pub in_force: &'a Chain,
    /// The namespace of the controllers.
    pub system_namespace: &'a str,
}

impl<'a> Inputs<'a> {
    /// The settings of one feature.
    pub fn settings<F>(&self, of: impl Fn(&'a Features) -> Option<&'a F>) -> Settings<'a, F> {
        Settings { own: of(&self.customer.spec.features), planned: self.plan.and_then(|plan| of(&plan.spec.features)) }
    }

    /// Whether a feature is enabled by the Customer, else by the Plan.
    pub fn enabled(&self, flag: impl Fn(&Features) -> Option<bool>) -> Option<bool> {
        flag(&self.customer.spec.features).or_else(|| flag(&self.plan?.spec.features))
    }
}

/// A feature as the Customer and its Plan describe it.
pub struct Settings<'a, F> {
    pub own: Option<&'a F>,
    pub planned: Option<&'a F>,
}

impl<F> Settings<'_, F> {
    /// A field: the Customer's if set, else the Plan's.
    pub fn field<T>(&self, get: impl Fn(&F) -> Option<T>) -> Option<T> {
        self.own.and_then(&get).or_else(|| self.planned.and_then(&get))
    }

    /// A list: the Plan's, in which entries of the Customer replace those of the same name or are appended.
    pub fn list<T>(&self, get: impl Fn(&F) -> Option<Vec<T>>, name: impl Fn(&T) -> &str) -> Vec<T> {
        let mut all = self.planned.and_then(&get).unwrap_or_default();
        for item in self.own.and_then(&get).unwrap_or_default() {
            match all.iter_mut().find(|known| name(known) == name(&item)) {
                Some(known) => *known = item,
                None => all.push(item),
            }
        }
        all
    }

    /// A map: the Plan's, with the entries of the Customer.
    pub fn map(&self, get: impl Fn(&F) -> Option<BTreeMap<String, String>>) -> BTreeMap<String, String> {
        let mut all = self.planned.and_then(&get).unwrap_or_default();
        all.extend(self.own.and_then(&get).unwrap_or_default());
        all
    }
}
