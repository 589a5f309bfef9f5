//! Parts of a Customer's spec that are not applied.

use crate::features::Feature;

/// A part of the spec that is not applied. What is in force for it stays, and the rest of the spec is applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// The feature that it is about; None: all that comes from the Plan.
    pub feature: Option<&'static str>,
    /// CamelCase, for conditions.
    pub reason: &'static str,
    /// Which field, its value, what to do, and what stays in force.
    pub message: String,
}

impl Held {
    /// A part of the feature `F`.
    pub fn of<F: Feature>(reason: &'static str, message: impl Into<String>) -> Self {
        Self { feature: Some(F::NAME), reason, message: message.into() }
    }
}

/// Reason and message of what is held back of a feature.
pub fn held_of(held: &[Held], feature: &str) -> Option<(&'static str, String)> {
    let of_feature: Vec<&Held> = held.iter().filter(|held| held.feature == Some(feature)).collect();
    let messages: Vec<&str> = of_feature.iter().map(|held| held.message.as_str()).collect();
    Some((of_feature.first()?.reason, messages.join("; ")))
}

#[cfg(test)]
mod tests;
