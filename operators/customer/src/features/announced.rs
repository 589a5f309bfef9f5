//! Features that can be enabled and are not part of this release.

use ahoi_api::{FeatureState, Features, Reason};

use super::report::Report;

/// A feature without a child.
pub struct Announced {
    pub name: &'static str,
    condition: &'static str,
    /// Whether these features enable it.
    pub enabled: fn(&Features) -> Option<bool>,
}

/// All of them.
pub const ANNOUNCED: [Announced; 2] = [
    Announced {
        name: "webhooks",
        condition: "WebhooksReady",
        enabled: |features| features.webhooks.as_ref().and_then(|f| f.enabled),
    },
    Announced {
        name: "previews",
        condition: "PreviewsReady",
        enabled: |features| features.previews.as_ref().and_then(|f| f.enabled),
    },
];

impl Announced {
    /// The report on the Customer.
    pub fn report(&self, is_enabled: bool) -> Report {
        let Self { name, condition, .. } = self;
        let (state, reason, message) = if is_enabled {
            let message = format!(
                "spec.features.{name} is not available in this release and will be enabled automatically by the first release \
                 that supports it; set spec.features.{name}.enabled to false to remove it from the count"
            );
            (FeatureState::Unavailable, Reason::NotAvailable, message)
        } else {
            (FeatureState::Disabled, Reason::Disabled, String::new())
        };
        Report {
            name,
            condition,
            state,
            reason: reason.into(),
            message,
            reference: None,
            mirrors: &[],
            mirrored: Vec::new(),
            recreated: false,
        }
    }
}
