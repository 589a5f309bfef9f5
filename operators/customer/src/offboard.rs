//! Deleting a Customer, in an order that cannot hang: workers first, then the route, then the database by the
//! customer's own policy, the namespace last. Each step waits for the one before it by event.

use ahoi_api::{Customer, NamespaceDeletionPolicy};
use ahoi_reconcile::{Conditioned, Error, Owned, not_ready_message};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::core::PartialObjectMeta;
use kube::{Api, Client, CustomResourceExt, ResourceExt};

use crate::controller::{Children, only_child};
use crate::features::removed;

/// Removes what the customer has. `Err(Waiting)` until the last of it is gone.
pub async fn offboard(client: &Client, children: &Children, customer: &Customer) -> Result<(), Error> {
    let all_gone = remove(client, &children.schedulers, customer, |_| ()).await?
        && remove(client, &children.connection_pools, customer, |_| ()).await?
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
            Err(Error::waiting("Offboarding", format!("waiting until it is removed: {}", not_ready_message(&*child))))
        }
    }
}

async fn definition_is_going(client: &Client) -> Result<bool, Error> {
    let api: Api<PartialObjectMeta<CustomResourceDefinition>> = Api::all(client.clone());
    let definition = api.get_opt(Customer::crd_name()).await?;
    Ok(definition.is_none_or(|d| d.metadata.deletion_timestamp.is_some()))
}
