//! The owner of a namespace. Pure, because a wrong answer deletes the namespace of another owner.

use ahoi_api::{CUSTOMER_LABEL, CustomerNamespace, NAMESPACE_OWNER_LABEL, namespace_of};
use k8s_openapi::api::core::v1::Namespace;
use kube::ResourceExt;

/// The owner of a namespace, from the perspective of one CustomerNamespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ownership {
    /// It belongs to this CustomerNamespace.
    Ours,
    /// It belonged to a CustomerNamespace of this name that no longer exists, and is adopted: after a restore from a backup, or after
    /// the CustomResourceDefinition was created again.
    Orphaned,
    /// It belongs, or may belong, to another owner.
    Foreign(Mismatch),
}

/// Why a namespace belongs to another owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mismatch {
    /// It lacks one of the two labels, or names another customer.
    NotMarked,
    /// The CustomerNamespace of this name, which exists.
    OwnedBy(String),
}

/// The ownership of `namespace` from the perspective of `owner`. Both labels are required, since people may set one of them
/// manually. `find_owner` returns the name of the CustomerNamespace with a uid, if it exists.
pub fn ownership(
    owner: &CustomerNamespace,
    namespace: &Namespace,
    find_owner: impl FnOnce(&str) -> Option<String>,
) -> Ownership {
    let labels = namespace.labels();
    let (Some(customer), Some(uid)) = (labels.get(CUSTOMER_LABEL), labels.get(NAMESPACE_OWNER_LABEL)) else {
        return Ownership::Foreign(Mismatch::NotMarked);
    };
    if *customer != owner.name_any() || uid.is_empty() {
        return Ownership::Foreign(Mismatch::NotMarked);
    }
    if owner.metadata.uid.as_ref() == Some(uid) {
        return Ownership::Ours;
    }
    find_owner(uid).map_or(Ownership::Orphaned, |other| Ownership::Foreign(Mismatch::OwnedBy(other)))
}

/// The customer of the namespace with this name.
pub fn customer_of(namespace: &str) -> Option<&str> {
    namespace.strip_prefix(namespace_of("").as_str())
}

/// What blocks the deletion of a namespace, as Kubernetes reports it.
pub fn remaining(namespace: &Namespace) -> String {
    let status = namespace.status.as_ref();
    let conditions = status.and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let blocking = conditions.iter().filter(|condition| condition.status == "True");
    let reasons: Vec<&str> = blocking.filter_map(|condition| condition.message.as_deref()).collect();
    let name = namespace.name_any();
    if reasons.is_empty() {
        format!("namespace {name} is being deleted")
    } else {
        format!("namespace {name} is being deleted: {}", reasons.join("; "))
    }
}
