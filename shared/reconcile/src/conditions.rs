//! `status.conditions`: one verdict for each reconcile, and reading other objects' conditions.
//!
//! Setting and finding single conditions is k8s-controller's; this module adds the
//! triple that [kstatus](https://github.com/kubernetes-sigs/cli-utils/blob/master/pkg/kstatus/README.md)
//! and so `kubectl wait`, Flux and Argo understand: `Ready`, and the abnormal-true `Reconciling` and
//! `Stalled`, which exist only while they are true.

pub use k8s_controller::conditions::{
    ConditionChange, ConditionStatus, DesiredCondition, find, find_observed, remove, set,
};
pub use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use ahoi_api::{Conditioned, NO_TRANSITION};

use crate::error::{Class, Error};

/// True when the object is as its spec describes.
pub const READY: &str = "Ready";
/// Present and true while the controller makes progress.
pub const RECONCILING: &str = "Reconciling";
/// Present and true while a person must act.
pub const STALLED: &str = "Stalled";

/// The outcome of a reconcile, from which the three standard conditions follow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Everything is as the spec describes.
    Ready {
        /// A summary, such as "3/3 features".
        message: String,
    },
    /// In progress, without action by a person.
    Progressing {
        /// CamelCase.
        reason: String,
        /// What is missing.
        message: String,
    },
    /// A person must act.
    Stalled {
        /// CamelCase.
        reason: String,
        /// What has to change, and where.
        message: String,
    },
}

impl Verdict {
    /// Everything is as the spec describes.
    pub fn ready(message: impl Into<String>) -> Self {
        Verdict::Ready { message: message.into() }
    }

    /// In progress.
    pub fn progressing(reason: impl Into<String>, message: impl Into<String>) -> Self {
        Verdict::Progressing { reason: reason.into(), message: message.into() }
    }

    /// A person must act.
    pub fn stalled(reason: impl Into<String>, message: impl Into<String>) -> Self {
        Verdict::Stalled { reason: reason.into(), message: message.into() }
    }
}

impl From<&Error> for Verdict {
    fn from(error: &Error) -> Self {
        match error.class() {
            Class::Transient | Class::Waiting | Class::Conflict => {
                Verdict::progressing(error.reason(), error.to_string())
            }
            Class::Structural | Class::Terminal => Verdict::stalled(error.reason(), error.to_string()),
        }
    }
}

/// Sets `Ready`, `Reconciling` and `Stalled` from the verdict on `generation`. Transition times move
/// only when the status of a condition does, so setting the same verdict twice changes nothing.
pub fn set_verdict(conditions: &mut Vec<Condition>, generation: impl Into<Option<i64>>, verdict: Verdict) {
    let generation = generation.into();
    let mut put = |type_: &str, status: ConditionStatus, reason: &str, message: &str| {
        let desired = DesiredCondition::new(type_, status, reason, message).observed_generation(generation);
        // The status is compared as a whole before it is written.
        let _ = set(conditions, desired);
    };
    match &verdict {
        Verdict::Ready { message } => put(READY, ConditionStatus::True, READY, message),
        Verdict::Progressing { reason, message } => {
            put(READY, ConditionStatus::False, reason, message);
            put(RECONCILING, ConditionStatus::True, reason, message);
        }
        Verdict::Stalled { reason, message } => {
            put(READY, ConditionStatus::False, reason, message);
            put(STALLED, ConditionStatus::True, reason, message);
        }
    }
    if !matches!(verdict, Verdict::Progressing { .. }) {
        remove(conditions, RECONCILING);
    }
    if !matches!(verdict, Verdict::Stalled { .. }) {
        remove(conditions, STALLED);
    }
}

/// Whether an object is ready *for its current spec*. A Ready of an older generation does not count.
pub fn is_ready<K: Conditioned>(object: &K) -> bool {
    let meta = object.meta();
    let Some(status) = object.status() else { return false };
    meta.deletion_timestamp.is_none()
        && K::observed_generation(status) == meta.generation
        && find_observed(K::conditions(status), READY, meta.generation).is_some_and(|ready| ready.status == "True")
}

/// Whether a status is neither Ready nor Stalled.
pub(crate) fn is_underway<K: Conditioned>(status: &K::Status) -> bool {
    !is_true(K::conditions(status), READY) && !is_true(K::conditions(status), STALLED)
}

/// Whether the condition exists and is True, for whatever generation.
pub fn is_true(conditions: &[Condition], type_: &str) -> bool {
    find(conditions, type_).is_some_and(|condition| condition.status == "True")
}

/// Why [`is_ready`] is false, for the message of the object that waits: "Database big-client: creating the roles".
pub fn not_ready_message<K: Conditioned>(object: &K) -> String {
    let meta = object.meta();
    let ready = object.status().and_then(|status| find_observed(K::conditions(status), READY, meta.generation));
    let why = match (meta.deletion_timestamp.is_some(), ready) {
        // What its cleanup waits for.
        (true, Some(ready)) if ready.status == "False" => format!("is being deleted: {}", ready.message),
        (true, _) => "is being deleted".to_owned(),
        (false, Some(ready)) if !ready.message.is_empty() => ready.message.clone(),
        (false, Some(ready)) => ready.reason.clone(),
        (false, None) => "its controller has not seen the latest change yet".to_owned(),
    };
    format!("{} {}: {why}", K::kind(&()), meta.name.as_deref().unwrap_or_default())
}

/// The longest message of a condition, in bytes.
const MAX_MESSAGE_BYTES: usize = 4096;

/// Cuts long messages, which quote other texts: the API server refuses a status that is too long.
pub(crate) fn shorten(conditions: &mut [Condition]) {
    for condition in conditions.iter_mut().filter(|condition| condition.message.len() > MAX_MESSAGE_BYTES) {
        let mut end = MAX_MESSAGE_BYTES - '…'.len_utf8();
        while !condition.message.is_char_boundary(end) {
            end -= 1;
        }
        condition.message.truncate(end);
        condition.message.push('…');
    }
}

/// Makes new conditions comparable with the old ones: in their order, with their transition times where the status is the same.
/// Otherwise a reconciler that starts from an empty list would write its status each time.
pub(crate) fn keep_history(old: &[Condition], new: &mut [Condition]) {
    let position = |type_: &str| old.iter().position(|condition| condition.type_ == type_);
    new.sort_by_key(|condition| position(&condition.type_).unwrap_or(usize::MAX));
    for condition in new {
        let before = find(old, &condition.type_).filter(|before| before.status == condition.status);
        if let Some(before) = before.filter(|before| before.last_transition_time != NO_TRANSITION) {
            condition.last_transition_time = before.last_transition_time.clone();
        }
    }
}
