//! A Customer that is deleted in the foreground, where no admission policy refuses it: Kubernetes deletes the children by
//! itself, before they know that the Customer is deleted on purpose. They leave their namespace and their data behind.
//!
//! The Customer outlives them by its finalizer. Once Kubernetes is done, the CustomerNamespace is created again to have the
//! namespace removed, and the data goes by the Customer's policy, as it does where a Database was deleted before.

use ahoi_api::{
    CUSTOMER_LABEL, Customer, CustomerNamespace, CustomerNamespaceSpec, DeletionPolicy, NAMESPACE_OWNER_LABEL,
    NamespaceDeletionPolicy, namespace_of,
};
use ahoi_reconcile::{Error, EventType, is_ready, not_ready_message};
use k8s_openapi::api::core::v1::Namespace;
use kube::{Api, ResourceExt};

use crate::children::only_child;
use crate::features::namespace::namespace_child;
use crate::offboarding::{Offboarding, definition_is_going, is_overdue, note};

use crate::story::OFFBOARDING;

/// What Kubernetes puts on an object whose children it deletes by itself.
const FOREGROUND: &str = "foregroundDeletion";

/// Takes back the namespace that a deletion in the foreground has left. `Err(Waiting)` until its CustomerNamespace has it;
/// `false`: the definition is being deleted, and everything stays.
pub async fn restore_for_deletion(leaving: &Offboarding<'_>) -> Result<bool, Error> {
    let &Offboarding { platform, children, customer, .. } = leaving;
    if customer.finalizers().iter().any(|finalizer| finalizer == FOREGROUND) {
        let message =
            "Kubernetes deletes the objects of this Customer first, since it was deleted with --cascade=foreground";
        return Err(Error::waiting("ForegroundDeletion", message));
    }
    match only_child(&children.namespaces, customer) {
        // One that is not told to delete its namespace yet has had it all the time.
        Some(child)
            if child.spec.deletion_policy == NamespaceDeletionPolicy::Delete
                && child.metadata.deletion_timestamp.is_none()
                && !is_ready(&*child)
                && ![&customer.metadata.deletion_timestamp, &child.metadata.creation_timestamp]
                    .into_iter()
                    .all(|since| is_overdue(since.as_ref())) =>
        {
            Err(Error::waiting(OFFBOARDING, not_ready_message(&*child)))
        }
        Some(_) => Ok(true),
        None if !is_left(leaving).await? => Ok(true),
        None if definition_is_going(&platform.client).await? => Ok(false),
        None => take_back(leaving).await,
    }
}

async fn take_back(leaving: &Offboarding<'_>) -> Result<bool, Error> {
    let &Offboarding { platform, children, customer, .. } = leaving;
    let (name, policy) = (customer.name_any(), customer.spec.deletion_policy);
    let has_data = had_database(customer) && policy != DeletionPolicy::Retain;
    if has_data {
        note(leaving, true).await?;
    }
    let data = if has_data { format!(", and its data by the policy {policy:?}") } else { String::new() };
    let namespace = namespace_of(&name);
    let message = format!(
        "the objects of Customer {name} were deleted before the Customer's own controller could; namespace {namespace} is \
         removed now{data}"
    );
    platform.event(customer, EventType::Warning, "ForegroundDeletion", message);
    let spec =
        CustomerNamespaceSpec { deletion_policy: NamespaceDeletionPolicy::Delete, ..CustomerNamespaceSpec::default() };
    let child: CustomerNamespace = namespace_child(&name, spec);
    children.namespaces.apply(customer, child).await?;
    Err(Error::waiting(OFFBOARDING, format!("waiting until namespace {namespace} is taken back to be removed")))
}

/// Whether the customer's namespace is there without a CustomerNamespace. Both labels must say so, as for its controller.
async fn is_left(leaving: &Offboarding<'_>) -> Result<bool, Error> {
    let (client, name) = (leaving.platform.client.clone(), leaving.customer.name_any());
    let namespaces: Api<Namespace> = Api::all(client);
    let Some(found) = namespaces.get_metadata_opt(&namespace_of(&name)).await? else { return Ok(false) };
    let labels = found.labels();
    let is_ours = labels.get(CUSTOMER_LABEL) == Some(&name)
        && labels.get(NAMESPACE_OWNER_LABEL).is_some_and(|uid| !uid.is_empty());
    Ok(is_ours && found.metadata.deletion_timestamp.is_none())
}

fn had_database(customer: &Customer) -> bool {
    let mut features = customer.status.iter().flat_map(|status| &status.features);
    features.any(|feature| feature.name == "database" && feature.reference.is_some())
}
