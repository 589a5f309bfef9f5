//! A feature while the Plan of its Customer is missing.

use ahoi_api::{Customer, Reason};
use kube::core::object::HasSpec;

use super::feature::{Feature, Spec};
use crate::held::Held;
use crate::wanted::Wanted;

/// The spec in force, unless the Customer turns the feature off. A feature that does not exist yet is not created.
pub fn keep<F: Feature>(
    customer: &Customer,
    in_force: Option<&F::Child>,
    reason: Reason,
    wanted: &mut Wanted,
) -> Option<Spec<F>> {
    let enabled = F::enabled(&customer.spec.features);
    if enabled == Some(false) {
        return None;
    }
    let child = in_force.filter(|_| F::can_stay(wanted));
    let spec = child.map(|child| F::essential(customer, child).spec().clone());
    if spec.is_none() && enabled == Some(true) {
        wanted.held.push(Held::of(F::NAME, reason, "not created until the Plan is found"));
    }
    spec
}
