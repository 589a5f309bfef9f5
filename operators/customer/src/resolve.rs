//! Customer + Plan → desired state. Pure: no client, no cluster.
//!
//! A field that cannot be applied keeps the value in force, and [`Wanted::held`] says why. If no value is in force, its feature
//! is not created. All other fields are applied.

use ahoi_api::{Customer, Plan, Reason, RunPolicy};
use kube::ResourceExt;

use crate::features::announced::ANNOUNCED;
use crate::features::chain::Chain;
use crate::features::inputs::Inputs;
use crate::features::registry;
use crate::wanted::Wanted;
use crate::without_plan::without_plan;

/// The Plan of a Customer.
#[derive(Clone, Copy, Debug)]
pub enum PlanChoice<'a> {
    Found(&'a Plan),
    /// The Customer names none, and none is named `default`.
    BuiltIn,
    /// The Plan does not exist or cannot be read. `why` names it, and what to do.
    Missing {
        reason: Reason,
        why: &'a str,
    },
}

impl<'a> PlanChoice<'a> {
    /// The Plan, if it was found.
    pub fn found(self) -> Option<&'a Plan> {
        match self {
            PlanChoice::Found(plan) => Some(plan),
            PlanChoice::BuiltIn | PlanChoice::Missing { .. } => None,
        }
    }
}

/// Merges Customer and Plan, and validates the result against what is `in_force`.
pub fn resolve(customer: &Customer, plan: PlanChoice<'_>, in_force: &Chain, system_namespace: &str) -> Wanted {
    if let PlanChoice::Missing { reason, why } = plan {
        return without_plan(customer, reason, why, in_force);
    }
    let inputs = Inputs { customer, plan: plan.found(), in_force, system_namespace };
    let announced = ANNOUNCED.iter().filter(|feature| inputs.enabled(feature.enabled).unwrap_or(false));
    let mut wanted = Wanted {
        name: customer.name_any(),
        plan: inputs.plan.map(ResourceExt::name_any),
        suspended: customer.spec.run_policy == RunPolicy::Suspended,
        announced: announced.map(|feature| feature.name).collect(),
        ..Wanted::default()
    };
    registry::resolve(&inputs, &mut wanted);
    wanted
}

#[cfg(test)]
mod tests;
