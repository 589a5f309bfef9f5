//! What all guard rails have in common: a label and their metadata.

use ahoi_api::{CUSTOMER_LABEL, CustomerNamespace, namespace_of};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt;

/// Label on every guard rail. Its value is the name of the CustomerNamespace. It differs from the customer's label, which people
/// set on their own objects.
pub const GUARD_RAIL_LABEL: &str = "internal.example.com/guard-rail-of";

/// Metadata of the guard rail `name`.
pub fn meta(owner: &CustomerNamespace, name: &str) -> ObjectMeta {
    let labels = [(CUSTOMER_LABEL, owner.name_any()), (GUARD_RAIL_LABEL, owner.name_any())];
    ObjectMeta {
        name: Some(name.to_owned()),
        namespace: Some(namespace_of(&owner.name_any())),
        labels: Some(labels.map(|(key, value)| (key.to_owned(), value)).into()),
        ..ObjectMeta::default()
    }
}
