//! Whose a namespace is. Pure, because the wrong answer costs somebody else's namespace.

use ahoi_api::{CUSTOMER_LABEL, CustomerNamespace, NAMESPACE_OWNER_LABEL, namespace_of};
use k8s_openapi::api::core::v1::Namespace;
use kube::ResourceExt;

/// Whose a namespace is, seen from one CustomerNamespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claim {
    /// It is this CustomerNamespace's.
    Ours,
    /// It was made for a CustomerNamespace of this name that is no more: one that was restored from a backup, or
    /// whose definition was created again, finds its tenant by this.
    Orphan,
    /// It is, or may be, somebody else's.
    Foreign(Reason),
}

/// Why a namespace is taken to be somebody else's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// It lacks one of the two labels, or was made for a customer of another name.
    NotMarked,
    /// The CustomerNamespace with this name made it, and exists.
    OwnedBy(String),
}

/// Whose `namespace` is, seen from `owner`. Both labels must be there: one alone is something that people put on a
/// namespace by hand. `living` names the CustomerNamespace with a uid, if it exists.
pub fn claim(owner: &CustomerNamespace, namespace: &Namespace, living: impl FnOnce(&str) -> Option<String>) -> Claim {
    let labels = namespace.labels();
    let (Some(customer), Some(uid)) = (labels.get(CUSTOMER_LABEL), labels.get(NAMESPACE_OWNER_LABEL)) else {
        return Claim::Foreign(Reason::NotMarked);
    };
    if *customer != owner.name_any() || uid.is_empty() {
        return Claim::Foreign(Reason::NotMarked);
    }
    if owner.metadata.uid.as_ref() == Some(uid) {
        return Claim::Ours;
    }
    living(uid).map_or(Claim::Orphan, |other| Claim::Foreign(Reason::OwnedBy(other)))
}

/// The customer whose namespace would be called so.
pub fn customer_of(namespace: &str) -> Option<&str> {
    namespace.strip_prefix(namespace_of("").as_str())
}

/// What keeps a namespace that is being deleted, in Kubernetes' own words where it says so.
pub fn remaining(namespace: &Namespace) -> String {
    let status = namespace.status.as_ref();
    let conditions = status.and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let telling = conditions.iter().filter(|condition| condition.status == "True");
    let what: Vec<&str> = telling.filter_map(|condition| condition.message.as_deref()).collect();
    let name = namespace.name_any();
    if what.is_empty() {
        format!("namespace {name} is being deleted")
    } else {
        format!("namespace {name} is being deleted: {}", what.join("; "))
    }
}
