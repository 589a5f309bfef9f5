//! A Customer whose Plan does not exist. What it has stays unchanged. Groups, suspension, disabled features and rotations need
//! no Plan, and are applied.

use ahoi_api::{Customer, FeatureState, Reason, RunPolicy};
use kube::ResourceExt;

use crate::features::announced::ANNOUNCED;
use crate::features::chain::Chain;
use crate::features::registry::keep_all;
use crate::held::Held;
use crate::wanted::Wanted;

/// The desired state until the Plan is found and can be read. `why` names the Plan, and what to do.
pub fn without_plan(customer: &Customer, reason: Reason, why: &str, in_force: &Chain) -> Wanted {
    let status = customer.status.as_ref();
    let was_on = |name| {
        let feature = status.and_then(|status| status.features.iter().find(|feature| feature.name == name));
        feature.is_some_and(|feature| feature.state != FeatureState::Disabled)
    };
    let is_on = |name, enabled: Option<bool>| enabled.unwrap_or_else(|| was_on(name));
    let announced = ANNOUNCED.iter().filter(|feature| is_on(feature.name, (feature.enabled)(&customer.spec.features)));
    let message = format!(
        "{why}; until then spec.groups, spec.runPolicy, disabled features and rotations are applied, and everything else \
         stays as it is"
    );
    let mut wanted = Wanted {
        name: customer.name_any(),
        plan: status.and_then(|status| status.plan.clone()),
        suspended: customer.spec.run_policy == RunPolicy::Suspended,
        announced: announced.map(|feature| feature.name).collect(),
        default_storage: status.and_then(|status| status.default_storage_bytes),
        held: vec![Held { feature: None, reason, message }],
        ..Wanted::default()
    };
    keep_all(customer, in_force, reason, &mut wanted);
    wanted
}
