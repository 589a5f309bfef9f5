//! The parts of a Customer's spec that are not applied.

use ahoi_api::Reason;

/// A part of the spec that is not applied. Its value in force stays, and the rest of the spec is applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// Its feature. `None`: everything that comes from the Plan.
    pub feature: Option<&'static str>,
    /// Reason for the conditions.
    pub reason: Reason,
    /// The field, its value, what to do, and what stays in force.
    pub message: String,
}

impl Held {
    /// A part of a feature.
    pub fn of(feature: &'static str, reason: Reason, message: impl Into<String>) -> Self {
        Self { feature: Some(feature), reason, message: message.into() }
    }
}

/// Reason and message of the parts of a feature that are not applied.
pub fn held_of(held: &[Held], feature: &str) -> Option<(Reason, String)> {
    let of_feature: Vec<&Held> = held.iter().filter(|held| held.feature == Some(feature)).collect();
    let messages: Vec<&str> = of_feature.iter().map(|held| held.message.as_str()).collect();
    Some((of_feature.first()?.reason, messages.join("; ")))
}

/// What is in force until the field is corrected.
pub fn stays(feature: &str, field: &str, kept: Option<String>) -> String {
    match kept {
        Some(kept) => format!("until then {feature}.{field} stays {kept}, and the rest of the spec is applied"),
        None => format!("until then the feature {feature} is not created, and the rest of the spec is applied"),
    }
}

#[cfg(test)]
mod tests;
