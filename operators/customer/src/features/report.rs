//! How a feature is.

use ahoi_api::{ChildRef, FeatureState};
use ahoi_reconcile::conditions::{self, ConditionStatus};
use ahoi_reconcile::{Conditioned, is_ready};
use kube::ResourceExt;

/// Reason of a feature whose child is being deleted.
pub const REMOVING: &str = "Removing";

/// How a feature is.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    pub name: &'static str,
    pub condition: &'static str,
    pub state: FeatureState,
    pub reason: String,
    pub message: String,
    pub reference: Option<ChildRef>,
    /// Conditions of the child that the Customer has, too, as they stand there.
    pub mirrored: Vec<Mirrored>,
    /// Whether the child was there before, was lost, and has just been created again.
    pub recreated: bool,
}

/// A condition of a child on its Customer.
#[derive(Clone, Debug, PartialEq)]
pub struct Mirrored {
    pub type_: &'static str,
    pub status: ConditionStatus,
    pub reason: String,
    pub message: String,
}

/// A feature that can be asked for and is not built yet.
pub fn not_built(name: &'static str, condition: &'static str, on: bool) -> Report {
    let (state, reason, message) = if on {
        let message = format!(
            "spec.features.{name} is not part of this release, and is enabled by the first release that has it; set \
             spec.features.{name}.enabled to false to take it out of the count"
        );
        (FeatureState::Unavailable, "NotAvailable", message)
    } else {
        (FeatureState::Disabled, "Disabled", String::new())
    };
    Report {
        name,
        condition,
        state,
        reason: reason.into(),
        message,
        reference: None,
        mirrored: Vec::new(),
        recreated: false,
    }
}

/// How a child says it is; its word counts only for the generation it has seen.
pub fn state_of<C: Conditioned>(child: &C) -> (FeatureState, String, String) {
    if child.meta().deletion_timestamp.is_some() {
        return (FeatureState::Progressing, REMOVING.into(), format!("the old {} is being removed", child.name_any()));
    }
    let generation = child.meta().generation;
    let said = child.status().map(C::conditions).unwrap_or_default();
    let observed = |type_| conditions::find_observed(said, type_, generation);
    if is_ready(child) {
        let message = observed("Ready").map(|c| c.message.clone()).unwrap_or_default();
        return (FeatureState::Ready, "Ready".into(), message);
    }
    if let Some(stalled) = observed("Stalled").filter(|c| c.status == "True") {
        return (FeatureState::Stalled, stalled.reason.clone(), stalled.message.clone());
    }
    match observed("Ready") {
        Some(ready) => (FeatureState::Progressing, ready.reason.clone(), ready.message.clone()),
        None => (
            FeatureState::Progressing,
            "NotReported".into(),
            format!("waiting for the controller of {} {} to report", C::kind(&()), child.name_any()),
        ),
    }
}
