//! Errors of a reconcile, by who can resolve them.
//!
//! A reconciler returns the class of an error, and [`requeue`](crate::requeue) has the delay of each class.

use std::fmt;

use ahoi_api::Reason;

use crate::decode::without_values;

/// The error of a reconcile. Its text is the message of conditions and events, so it must be *stable*: with a counter or a
/// timestamp, each retry would be a write.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Something this object depends on does not exist or is not ready yet. Its event triggers the next reconcile; the requeue
    /// is a safety net.
    #[error("{message}")]
    Waiting {
        /// CamelCase, for the Ready condition.
        reason: String,
        /// What is being waited for.
        message: String,
    },
    /// The object's own spec must change before a retry makes sense.
    #[error("{message}")]
    Terminal {
        /// CamelCase, for the Stalled condition.
        reason: String,
        /// What is wrong with the spec.
        message: String,
    },
    /// Something other than the object must change: a Plan is missing, a Secret is wrong, a name is taken.
    #[error("{message}")]
    Structural {
        /// CamelCase, for the Stalled condition.
        reason: String,
        /// What has to change, and where.
        message: String,
    },
    /// Another client wrote at the same time. The next reconcile has its write.
    #[error("another client changed the object at the same time: {0}")]
    Conflict(String),
    /// The API server refused or could not be reached.
    #[error("{}", Described(.0))]
    Kube(#[from] kube::Error),
    /// A call or a reconcile exceeded its time limit.
    #[error("no answer within the time allowed")]
    Timeout,
    /// Anything else; retried with growing delays.
    #[error("{0:#}")]
    Other(#[from] anyhow::Error),
}

/// Who can resolve an error. This decides when to retry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// A retry.
    Transient,
    /// Another controller, and a watch reports it.
    Waiting,
    /// A retry with the new version of the object.
    Conflict,
    /// A person, by changing another object.
    Structural,
    /// A person, by changing this object's spec.
    Terminal,
}

impl Class {
    /// The value of the `class` label in metrics and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Class::Transient => "transient",
            Class::Waiting => "waiting",
            Class::Conflict => "conflict",
            Class::Structural => "structural",
            Class::Terminal => "terminal",
        }
    }
}

impl Error {
    /// Something this object depends on does not exist or is not ready yet.
    pub fn waiting(reason: impl Into<String>, message: impl Into<String>) -> Self {
        Error::Waiting { reason: reason.into(), message: message.into() }
    }

    /// The object's own spec must change.
    pub fn terminal(reason: impl Into<String>, message: impl Into<String>) -> Self {
        Error::Terminal { reason: reason.into(), message: message.into() }
    }

    /// Something other than the object must change.
    pub fn structural(reason: impl Into<String>, message: impl Into<String>) -> Self {
        Error::Structural { reason: reason.into(), message: message.into() }
    }

    /// Who can resolve it. Exhaustive, so that a new variant must decide.
    pub fn class(&self) -> Class {
        match self {
            Error::Waiting { .. } => Class::Waiting,
            Error::Terminal { .. } => Class::Terminal,
            Error::Structural { .. } => Class::Structural,
            Error::Conflict(_) => Class::Conflict,
            Error::Kube(error) => class_of(error),
            Error::Timeout | Error::Other(_) => Class::Transient,
        }
    }

    /// The CamelCase reason for conditions.
    pub fn reason(&self) -> &str {
        match self {
            Error::Waiting { reason, .. } | Error::Terminal { reason, .. } | Error::Structural { reason, .. } => reason,
            Error::Conflict(_) | Error::Timeout | Error::Other(_) => Reason::Retrying.as_str(),
            Error::Kube(kube::Error::Api(status)) if is_too_large(status) => Reason::TooLarge.as_str(),
            Error::Kube(error) => match class_of(error) {
                Class::Waiting => Reason::NamespaceTerminating.as_str(),
                Class::Structural | Class::Terminal => Reason::Refused.as_str(),
                Class::Transient | Class::Conflict => Reason::Retrying.as_str(),
            },
        }
    }
}

/// The text of a client error, without values that must not be logged.
pub(crate) fn describe(error: &kube::Error) -> String {
    Described(error).to_string()
}

/// The message of a client error: `kube::Error::Api` would print the whole Status.
struct Described<'a>(&'a kube::Error);

impl fmt::Display for Described<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            kube::Error::Api(status) if is_too_large(status) => {
                write!(f, "the object is larger than the cluster stores, about 1.5 MiB: {}", status.message)
            }
            kube::Error::Api(status) if !status.message.is_empty() => f.write_str(&status.message),
            kube::Error::Api(status) => write!(f, "the API server answered {}", status.code),
            kube::Error::Service(_) | kube::Error::HyperError(_) => f.write_str("the API server cannot be reached"),
            // The error may quote what it did not expect, and the answer may be a Secret.
            kube::Error::SerdeError(error) => {
                write!(f, "the answer of the API server cannot be read: {}", without_values(&error.to_string()))
            }
            other => write!(f, "{other}"),
        }
    }
}

fn class_of(error: &kube::Error) -> Class {
    match error {
        kube::Error::Api(status) => match status.code {
            409 => Class::Conflict,
            _ if is_too_large(status) => Class::Structural,
            422 if is_failed_patch_test(status) => Class::Conflict,
            403 if is_namespace_terminating(status) => Class::Waiting,
            400 | 403 | 405 | 406 | 413 | 415 | 422 => Class::Structural,
            // 401 while a token rotates, 404 while a CRD is installed, 410, 429 and every 5xx
            _ => Class::Transient,
        },
        // The object does not fit our type, or the request could not even be built: no retry will help.
        kube::Error::SerdeError(_) | kube::Error::BuildRequest(_) => Class::Structural,
        _ => Class::Transient,
    }
}

/// The API server has no code for objects that are too large for etcd: it answers 500 with the text of etcd or gRPC.
fn is_too_large(status: &kube::core::Status) -> bool {
    let contains = |words| status.message.contains(words);
    status.code == 413
        || (status.code >= 500 && (contains("request is too large") || contains("message larger than max")))
}

/// A failed `test` of a JSON patch is a 422 without the causes that a validation error has.
fn is_failed_patch_test(status: &kube::core::Status) -> bool {
    let details = status.details.as_ref();
    details.is_none_or(|details| details.kind.is_empty() && details.causes.is_empty())
}

fn is_namespace_terminating(status: &kube::core::Status) -> bool {
    let details = status.details.as_ref();
    details.is_some_and(|details| details.causes.iter().any(|cause| cause.reason == Reason::NamespaceTerminating))
}
