//! Deleting a Customer, in an order that cannot hang: workers first, then the route, then the database by the
//! customer's own policy, also one that was turned off and has left its data behind, the namespace last. Each step waits for
//! the one before it by event.

use ahoi_api::{Customer, NamespaceDeletionPolicy};
use ahoi_reconcile::{Conditioned, Error, Owned, not_ready_message};
use kube::{Client, ResourceExt};

use crate::children::only_child;
use crate::features::converge::removed;
use crate::foreground::restore_for_deletion;
use crate::offboarding::{Offboarding, definition_is_going};
use crate::recall::recall;
use crate::story::OFFBOARDING;

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
