//! A Customer that was deleted in the foreground, where no admission policy denies it. Kubernetes deletes the children before they
//! have the Customer's deletion policy, so they leave their namespace and their data behind.
//!
//! The Customer outlives them by its finalizer. When Kubernetes has finished, the CustomerNamespace is created again to remove the
//! namespace, and the data is handled as if the Database had been deleted earlier.

use ahoi_api::{
    CUSTOMER_LABEL, Customer, CustomerNamespace, CustomerNamespaceSpec, DeletionPolicy, EventReason,
    NAMESPACE_OWNER_LABEL, NamespaceDeletionPolicy, Reason, namespace_of,
};
use ahoi_reconcile::{Error, EventType, is_ready, not_ready_message};
use k8s_openapi::api::core::v1::Namespace;
use kube::{Api, ResourceExt};

use crate::children::only_child;
use crate::features::namespace::namespace_child;
use crate::offboarding::{Offboarding, definition_is_deleted, is_overdue, record_retained};

/// The finalizer of an object whose children Kubernetes deletes.
const FOREGROUND: &str = "foregroundDeletion";

/// Creates a CustomerNamespace for a namespace that a foreground deletion has left. `Err(Waiting)` until it is Ready; `Ok(false)`:
/// the CustomResourceDefinition is being deleted, and everything is kept.
pub async fn take_back_namespace(offboarding: &Offboarding<'_>) -> Result<bool, Error> {
    let &Offboarding { platform, children, customer, .. } = offboarding;
    if customer.finalizers().iter().any(|finalizer| finalizer == FOREGROUND) {
        let message =
            "waiting for Kubernetes to delete the children: the Customer was deleted with --cascade=foreground";
        return Err(Error::waiting(Reason::ForegroundDeletion, message));
    }
    match only_child(&children.namespace, customer) {
        Some(child) if is_taken_back(&child) && !is_ready(&*child) && !is_late(customer, &child) => {
            Err(Error::waiting(Reason::Offboarding, not_ready_message(&*child)))
        }
        Some(_) => Ok(true),
        None if !is_left(offboarding).await? => Ok(true),
        None if definition_is_deleted(&platform.client).await? => Ok(false),
        None => create_again(offboarding).await,
    }
}

/// Whether this CustomerNamespace was created here: only such a one has the policy before its own deletion.
fn is_taken_back(child: &CustomerNamespace) -> bool {
    child.spec.deletion_policy == NamespaceDeletionPolicy::Delete && child.metadata.deletion_timestamp.is_none()
}

fn is_late(customer: &Customer, child: &CustomerNamespace) -> bool {
    let since = [&customer.metadata.deletion_timestamp, &child.metadata.creation_timestamp];
    since.into_iter().all(|since| is_overdue(since.as_ref()))
}

async fn create_again(offboarding: &Offboarding<'_>) -> Result<bool, Error> {
    let &Offboarding { platform, children, customer, .. } = offboarding;
    let (name, policy) = (customer.name_any(), customer.spec.deletion_policy);
    let has_data = had_database(customer) && policy != DeletionPolicy::Retain;
    if has_data {
        record_retained(offboarding, true).await?;
    }
    let data = if has_data { format!("; its data is handled by the policy {policy:?}") } else { String::new() };
    let namespace = namespace_of(&name);
    let message = format!(
        "a foreground deletion deleted the children of Customer {name} first; removing the namespace {namespace} that they \
         left{data}"
    );
    platform.event(customer, EventType::Warning, EventReason::ForegroundDeletion, message);
    let spec =
        CustomerNamespaceSpec { deletion_policy: NamespaceDeletionPolicy::Delete, ..CustomerNamespaceSpec::default() };
    children.namespace.apply(customer, namespace_child(&name, spec)).await?;
    Err(Error::waiting(Reason::Offboarding, format!("waiting until namespace {namespace} is taken back for removal")))
}

/// Whether the customer's namespace exists without a CustomerNamespace. As for the namespace's controller, both labels must match.
async fn is_left(offboarding: &Offboarding<'_>) -> Result<bool, Error> {
    let (client, name) = (offboarding.platform.client.clone(), offboarding.customer.name_any());
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
