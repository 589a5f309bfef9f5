//! The state of a feature.

use ahoi_api::{ChildRef, FeatureState, Reason};
use ahoi_reconcile::conditions::{self, ConditionStatus};
use ahoi_reconcile::{Conditioned, is_ready};
use kube::ResourceExt;

/// The state of a feature, for the status of the Customer.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    pub name: &'static str,
    /// Type of the condition.
    pub condition: &'static str,
    pub state: FeatureState,
    pub reason: String,
    pub message: String,
    pub reference: Option<ChildRef>,
    /// Types of conditions of the child that the Customer repeats.
    pub mirrors: &'static [&'static str],
    /// Those that the child has now.
    pub mirrored: Vec<Mirrored>,
    /// Whether the child was deleted by another process, and has been created again.
    pub recreated: bool,
}

/// A condition of a child, repeated on its Customer.
#[derive(Clone, Debug, PartialEq)]
pub struct Mirrored {
    pub type_: &'static str,
    pub status: ConditionStatus,
    pub reason: String,
    pub message: String,
}

/// State, reason and message of a child. Conditions of an earlier generation are ignored.
pub fn state_of<C: Conditioned>(child: &C) -> (FeatureState, String, String) {
    let (kind, name) = (C::kind(&()), child.name_any());
    if child.meta().deletion_timestamp.is_some() {
        return (
            FeatureState::Progressing,
            Reason::Removing.into(),
            format!("the previous {kind} {name} is being deleted"),
        );
    }
    let generation = child.meta().generation;
    let all = child.status().map(C::conditions).unwrap_or_default();
    let observed = |type_| conditions::find_observed(all, type_, generation);
    if is_ready(child) {
        let message = observed("Ready").map(|c| c.message.clone()).unwrap_or_default();
        return (FeatureState::Ready, Reason::Ready.into(), message);
    }
    if let Some(stalled) = observed("Stalled").filter(|c| c.status == "True") {
        return (FeatureState::Stalled, stalled.reason.clone(), stalled.message.clone());
    }
    match observed("Ready") {
        Some(ready) => (FeatureState::Progressing, ready.reason.clone(), ready.message.clone()),
        None => (
            FeatureState::Progressing,
            Reason::NotReported.into(),
            format!("waiting for the controller of {kind} {name} to report its status"),
        ),
    }
}
