//! A Customer whose Plan does not exist. What it has stays as it is; people, suspension, features that are off and
//! credentials to be rotated need no Plan, and are applied. Pure.

use ahoi_api::{Customer, FeatureState, RunPolicy};
use kube::ResourceExt;

use crate::features::chain::Chain;
use crate::features::connection_pool::ConnectionPoolFeature;
use crate::features::database::DatabaseFeature;
use crate::features::feature::Feature;
use crate::features::namespace::NamespaceFeature;
use crate::features::scheduler::SchedulerFeature;
use crate::held::Held;
use crate::wanted::Wanted;

/// What a customer shall have until its Plan is found and can be read; `why` says which one, and what to do.
pub fn without_plan(customer: &Customer, reason: &'static str, why: &str, in_force: &Chain) -> Wanted {
    let own = &customer.spec.features;
    let status = customer.status.as_ref();
    let was_on = |name| {
        let feature = status.and_then(|status| status.features.iter().find(|feature| feature.name == name));
        feature.is_some_and(|feature| feature.state != FeatureState::Disabled)
    };
    let mut held = vec![Held {
        feature: None,
        reason,
        message: format!(
            "{why}; until then spec.groups, spec.runPolicy, features that are turned off and rotations are applied, and all \
             else stays as it is"
        ),
    }];
    let namespace = in_force.namespace.as_deref().map(|child| NamespaceFeature::essential(customer, child).spec);
    if namespace.is_none() {
        held.push(waiting::<NamespaceFeature>(reason));
    }
    let mut kept = Kept { reason, held: &mut held };
    let database = kept.spec::<DatabaseFeature, _>(
        own.database.as_ref().and_then(|f| f.enabled),
        in_force.database.as_deref().map(|child| DatabaseFeature::essential(customer, child).spec),
    );
    // A pool does not outlive its database.
    let pool = in_force.connection_pool.as_deref().filter(|_| database.is_some());
    let connection_pool = kept.spec::<ConnectionPoolFeature, _>(
        own.connection_pool.as_ref().and_then(|f| f.enabled),
        pool.map(|child| ConnectionPoolFeature::essential(customer, child).spec),
    );
    let scheduler = kept.spec::<SchedulerFeature, _>(
        own.scheduler.as_ref().and_then(|f| f.enabled),
        in_force.scheduler.as_deref().map(|child| SchedulerFeature::essential(customer, child).spec),
    );
    Wanted {
        name: customer.name_any(),
        plan: status.and_then(|status| status.plan.clone()),
        suspended: customer.spec.run_policy == RunPolicy::Suspended,
        namespace,
        database,
        connection_pool,
        scheduler,
        webhooks: own.webhooks.as_ref().and_then(|f| f.enabled).unwrap_or_else(|| was_on("webhooks")),
        previews: own.previews.as_ref().and_then(|f| f.enabled).unwrap_or_else(|| was_on("previews")),
        default_storage: status.and_then(|status| status.default_storage_bytes),
        held,
    }
}

struct Kept<'a> {
    reason: &'static str,
    held: &'a mut Vec<Held>,
}

impl Kept<'_> {
    /// The spec in force, unless the Customer turns the feature off. One that is turned on waits.
    fn spec<F: Feature, S>(&mut self, enabled: Option<bool>, in_force: Option<S>) -> Option<S> {
        if enabled == Some(false) {
            return None;
        }
        if in_force.is_none() && enabled == Some(true) {
            self.held.push(waiting::<F>(self.reason));
        }
        in_force
    }
}

fn waiting<F: Feature>(reason: &'static str) -> Held {
    Held::of(F::NAME, reason, "not created before the Plan is found")
}
