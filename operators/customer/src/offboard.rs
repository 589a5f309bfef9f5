//! Deleting a Customer, in an order that cannot hang: workers first, then the route, then the database by the
//! customer's own policy, also one that was turned off and has left its data behind, the namespace last. Each step waits for
//! the one before it by event.

use ahoi_api::{Customer, NamespaceDeletionPolicy, Plan};
use ahoi_reconcile::{Cache, Conditioned, Error, Owned, Platform, not_ready_message};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::core::PartialObjectMeta;
use kube::{Api, Client, CustomResourceExt, ResourceExt};

use crate::controller::{Children, only_child};
use crate::features::removed;
use crate::foreground::restore_for_deletion;
use crate::recall::recall;
use crate::story::OFFBOARDING;

/// A Customer that is being deleted, and what is needed for it.
pub struct Offboarding<'a> {
    pub platform: &'a Platform,
    pub customers: &'a Cache<Customer>,
    pub children: &'a Children,
    /// The customer's, where it is still there.
    pub plan: Option<&'a Plan>,
    pub customer: &'a Customer,
}

/// Removes what the customer has. `Err(Waiting)` until the last of it is gone.
pub async fn offboard(leaving: &Offboarding<'_>) -> Result<(), Error> {
    let &Offboarding { platform, children, customer, .. } = leaving;
    let client = &platform.client;
    let all_gone = restore_for_deletion(leaving).await?
        && remove(client, &children.schedulers, customer, |_| ()).await?
        && remove(client, &children.connection_pools, customer, |_| ()).await?
        && recall(leaving).await?
        && remove(client, &children.databases, customer, |database| {
            database.spec.deletion_policy = customer.spec.deletion_policy;
        })
        .await?
        && remove(client, &children.namespaces, customer, |namespace| {
            namespace.spec.deletion_policy = NamespaceDeletionPolicy::Delete;
        })
        .await?;
    if !all_gone {
        // Nobody asked for this customer to go: whoever removes the definition removes all of them by accident.
        tracing::warn!(
            customer = customer.name_any(),
            "the Customer definition is being deleted: everything is retained"
        );
    }
    Ok(())
}

/// Deletes the child of kind `C` after giving it its last orders, and waits until it is gone. `false`: it stays.
async fn remove<C: Conditioned + PartialEq>(
    client: &Client,
    children: &Owned<C>,
    customer: &Customer,
    orders: impl Fn(&mut C),
) -> Result<bool, Error> {
    let Some(mut child) = only_child(children, customer) else { return Ok(true) };
    if child.meta().deletion_timestamp.is_none() {
        // Asked right before what cannot be taken back, and of the API server itself: a cache may not know yet.
        if definition_is_going(client).await? {
            return Ok(false);
        }
        let mut last = (*child).clone();
        orders(&mut last);
        if last != *child {
            child = children.apply(customer, last).await?;
        }
    }
    match removed(children, customer, &child).await? {
        None => Ok(true),
        Some(child) => {
            Err(Error::waiting(OFFBOARDING, format!("waiting until it is removed: {}", not_ready_message(&*child))))
        }
    }
}

/// Whether the definition of Customer is being deleted.
pub async fn definition_is_going(client: &Client) -> Result<bool, Error> {
    let api: Api<PartialObjectMeta<CustomResourceDefinition>> = Api::all(client.clone());
    let definition = api.get_opt(Customer::crd_name()).await?;
    Ok(definition.is_none_or(|d| d.metadata.deletion_timestamp.is_some()))
}
