//! The limits of a Plan. A field that exceeds its limit keeps the value in force, and all other fields are applied.

use ahoi_api::{Plan, Reason};
use kube::ResourceExt;

use crate::held::{Held, stays};

/// A limit of a Plan, and the field that it limits.
pub struct Limit<'a> {
    pub plan: &'a Plan,
    pub feature: &'static str,
    /// Name of the field of the feature.
    pub field: &'a str,
    /// Name of the field of `spec.limits`.
    pub limit: &'a str,
    pub most: String,
    /// Whether the Customer sets the field. Otherwise the value is the Plan's own.
    pub is_own: bool,
}

impl Limit<'_> {
    /// The field has the value `has`; the value in force is `kept`.
    pub fn exceeded(&self, has: &str, kept: Option<String>) -> Held {
        let Limit { feature, field, limit, most, .. } = self;
        let plan = self.plan.name_any();
        let message = if self.is_own {
            format!(
                "spec.features.{feature}.{field} is {has} and the Plan {plan} allows at most {most}: set it to at most {most}, \
                 or name another Plan in spec.plan"
            )
        } else {
            format!(
                "spec.features.{feature}.{field} of the Plan {plan} is {has} and its spec.limits.{limit} is {most}: correct \
                 the Plan, or set spec.features.{feature}.{field} of the Customer to at most {most}"
            )
        };
        Held::of(feature, Reason::ExceedsPlan, format!("{message}; {}", stays(feature, field, kept)))
    }

    /// The value in force exceeds the limit, and cannot be lowered.
    pub fn exceeded_in_force(&self, kept: &str) -> Held {
        let Limit { feature, field, limit, most, .. } = self;
        let plan = self.plan.name_any();
        let message = format!(
            "the {feature} has {kept}, which cannot shrink, and the Plan {plan} allows at most {most}: name another Plan in \
             spec.plan, or set spec.limits.{limit} of the Plan {plan} to at least {kept}"
        );
        Held::of(feature, Reason::ExceedsPlan, format!("{message}; {}", stays(feature, field, Some(kept.to_owned()))))
    }
}

/// Replaces a refused value by the one in force. Without one, the child is not created.
pub fn replace<S, V>(spec: &mut Option<S>, kept: Option<V>, set: impl Fn(&mut S, V)) {
    match (spec.as_mut(), kept) {
        (Some(spec), Some(kept)) => set(spec, kept),
        _ => *spec = None,
    }
}
