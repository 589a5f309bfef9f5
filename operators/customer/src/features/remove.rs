//! The removal of a child.

use std::sync::Arc;

use ahoi_api::{Customer, Reason};
use ahoi_reconcile::{Conditioned, Error, Owned, not_ready_message};
use kube::Resource as _;

use super::feature::Feature;
use crate::children::only_child;
use crate::offboarding::{Offboarding, definition_is_deleted};

/// Deletes the child of a deleted Customer by the Customer's policy, and waits until it no longer exists. `Ok(false)`: the
/// CustomResourceDefinition is being deleted, and the child stays.
pub async fn remove<F: Feature>(offboarding: &Offboarding<'_>, children: &Owned<F::Child>) -> Result<bool, Error> {
    let &Offboarding { platform, customer, .. } = offboarding;
    if !F::prepare_removal(offboarding).await? {
        return Ok(false);
    }
    let Some(mut child) = only_child(children, customer) else { return Ok(true) };
    if child.meta().deletion_timestamp.is_none() {
        // The API server is asked right before each deletion: a cache may not know yet.
        if definition_is_deleted(&platform.client).await? {
            return Ok(false);
        }
        let mut last = (*child).clone();
        F::apply_deletion_policy(customer, &mut last);
        if last != *child {
            child = children.apply(customer, last).await?;
        }
    }
    match delete(children, customer, &child).await? {
        None => Ok(true),
        Some(child) => {
            Err(Error::waiting(Reason::Offboarding, format!("waiting for deletion: {}", not_ready_message(&*child))))
        }
    }
}

/// Deletes the child, and returns it while its finalizers block the deletion.
pub async fn delete<C: Conditioned>(
    children: &Owned<C>,
    customer: &Customer,
    child: &C,
) -> Result<Option<Arc<C>>, Error> {
    if child.meta().deletion_timestamp.is_none() {
        children.delete(child).await?;
    }
    Ok(only_child(children, customer))
}
