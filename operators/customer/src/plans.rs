//! Which Plan a Customer is on, and which Customers a change of a Plan concerns.

use std::collections::HashMap;
use std::sync::Arc;

use ahoi_api::{Customer, Plan, Reason};
use ahoi_reconcile::{Cache, ObjectRef};
use kube::ResourceExt;
use parking_lot::Mutex;

use crate::resolve::PlanChoice;

/// The Plan of a Customer that names none, if a Plan has this name.
pub const DEFAULT_PLAN: &str = "default";

/// The name of the Plan that the customer is on, if it exists.
pub fn plan_name(customer: &Customer) -> &str {
    customer.spec.plan.as_deref().unwrap_or(DEFAULT_PLAN)
}

/// [`PlanChoice`] that owns its Plan.
pub enum PlanLookup {
    Found(Arc<Plan>),
    BuiltIn,
    Missing { reason: Reason, why: String },
}

impl PlanLookup {
    /// The same, borrowed.
    pub fn choice(&self) -> PlanChoice<'_> {
        match self {
            PlanLookup::Found(plan) => PlanChoice::Found(plan),
            PlanLookup::BuiltIn => PlanChoice::BuiltIn,
            PlanLookup::Missing { reason, why } => PlanChoice::Missing { reason: *reason, why },
        }
    }
}

/// The Plan that the Customer names, else the one named `default`. A default Plan that was used and no longer exists is missing:
/// the built-in defaults would turn off every feature that it enabled.
pub fn look_up(plans: &Cache<Plan>, customer: &Customer) -> PlanLookup {
    let name = customer.spec.plan.as_deref();
    let used = customer.status.as_ref().and_then(|status| status.plan.as_deref());
    let found = match plans.find("", plan_name(customer)) {
        Ok(found) => found,
        Err(unreadable) => return PlanLookup::Missing { reason: Reason::Unreadable, why: unreadable.to_string() },
    };
    let missing = |why| PlanLookup::Missing { reason: Reason::PlanNotFound, why };
    match (found, name) {
        (Some(plan), _) => PlanLookup::Found(plan),
        (None, Some(name)) => {
            missing(format!("spec.plan names the Plan {name}, which does not exist: create it or name another"))
        }
        (None, None) if used == Some(DEFAULT_PLAN) => missing(format!(
            "the Plan {DEFAULT_PLAN} of this customer no longer exists: create it again (an empty one gives the built-in \
             defaults) or name another in spec.plan"
        )),
        (None, None) => PlanLookup::BuiltIn,
    }
}

/// The Customers on the Plan `plan`.
pub fn customers_on(customers: &Cache<Customer>, plan: &str) -> Vec<ObjectRef<Customer>> {
    customers.select(|customer| (plan_name(customer) == plan).then(|| ObjectRef::from_obj(customer)))
}

/// Distinguishes a change of a Plan's spec from one of its status, which concerns no Customer.
pub struct PlanChanges {
    plans: Cache<Plan>,
    seen: Mutex<HashMap<String, Version>>,
}

/// Uid and generation of a Plan.
type Version = (Option<String>, Option<i64>);

impl PlanChanges {
    /// Distinguishes changes of these Plans.
    pub fn new(plans: Cache<Plan>) -> Self {
        Self { plans, seen: Mutex::default() }
    }

    /// Whether the Plan has another spec than at the last call.
    pub fn is_changed(&self, plan: &Plan) -> bool {
        let mut seen = self.seen.lock();
        match self.plans.get(&plan.name_any()) {
            Some(now) => {
                let version = (now.uid(), now.metadata.generation);
                seen.insert(now.name_any(), version.clone()) != Some(version)
            }
            None => {
                seen.remove(&plan.name_any());
                true
            }
        }
    }
}
