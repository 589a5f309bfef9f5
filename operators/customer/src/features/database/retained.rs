//! Data without a Database, when its Customer is deleted: the feature was turned off before, or the Database was deleted.
//!
//! Only a Database that has adopted the data can archive or delete it. The Database is therefore created again, adopts the data
//! by its name, and is removed like any other once it is Ready.

use ahoi_api::{Customer, Database, DatabaseSpec, DeletionPolicy, EventReason, Reason};
use ahoi_reconcile::{Class, Error, EventType, is_ready, not_ready_message};
use kube::ResourceExt;

use super::spec::{database_child, database_if_on};
use crate::children::only_child;
use crate::offboarding::{Offboarding, definition_is_deleted, is_overdue, record_retained};

/// Gives a Database to data that the Customer's policy archives or deletes. `Err(Waiting)` until it is Ready; `Ok(false)`: the
/// CustomResourceDefinition is being deleted, and everything is kept.
pub async fn restore_for_deletion(offboarding: &Offboarding<'_>) -> Result<bool, Error> {
    let &Offboarding { platform, children, customer, .. } = offboarding;
    if customer.spec.deletion_policy == DeletionPolicy::Retain {
        return Ok(true);
    }
    let is_retained = customer.status.as_ref().is_some_and(|status| status.database_retained);
    let child = only_child(&children.database, customer);
    if let Some(deleted) = child.as_ref().filter(|child| child.metadata.deletion_timestamp.is_some()) {
        // It was deleted before it had the customer's policy, and keeps the data.
        if deleted.spec.deletion_policy == DeletionPolicy::Retain && !is_retained {
            record_retained(offboarding, true).await?;
        }
        return Ok(true);
    }
    if !is_retained {
        return Ok(true);
    }
    if definition_is_deleted(&platform.client).await? {
        return Ok(false);
    }
    match child {
        Some(child) => wait_until_adopted(offboarding, &child).await,
        None => create_again(offboarding).await,
    }
}

async fn create_again(offboarding: &Offboarding<'_>) -> Result<bool, Error> {
    let &Offboarding { children, customer, plan, .. } = offboarding;
    let spec = DatabaseSpec { deletion_policy: customer.spec.deletion_policy, ..database_if_on(customer, plan) };
    match children.database.apply(customer, database_child(&customer.name_any(), spec)).await {
        Ok(child) => Err(waiting(customer, &child)),
        // Its namespace no longer exists, or its name is taken.
        Err(error)
            if is_overdue(customer.metadata.deletion_timestamp.as_ref())
                && matches!(error.class(), Class::Waiting | Class::Structural | Class::Terminal) =>
        {
            give_up(offboarding, &error.to_string()).await
        }
        Err(error) => Err(error),
    }
}

/// A Ready Database has adopted the data. That is recorded before the Database is deleted, or it would be created once more.
async fn wait_until_adopted(offboarding: &Offboarding<'_>, child: &Database) -> Result<bool, Error> {
    let customer = offboarding.customer;
    if is_ready(child) {
        record_retained(offboarding, false).await?;
        return Ok(true);
    }
    let since = [&customer.metadata.deletion_timestamp, &child.metadata.creation_timestamp];
    if since.into_iter().all(|since| is_overdue(since.as_ref())) {
        return give_up(offboarding, &not_ready_message(child)).await;
    }
    Err(waiting(customer, child))
}

/// Leaves the data where it is, and reports it. Nothing is destroyed.
async fn give_up(offboarding: &Offboarding<'_>, why: &str) -> Result<bool, Error> {
    let &Offboarding { platform, customer, .. } = offboarding;
    record_retained(offboarding, false).await?;
    let policy = customer.spec.deletion_policy;
    let message = format!("retained data may be left on its server although the deletion policy is {policy:?}: {why}");
    tracing::warn!(customer = customer.name_any(), ?policy, why, "left retained data on its server");
    platform.event(customer, EventType::Warning, EventReason::RetainedDataLeft, message);
    Ok(true)
}

fn waiting(customer: &Customer, child: &Database) -> Error {
    let archived = if customer.spec.deletion_policy == DeletionPolicy::Archive { "archived" } else { "deleted" };
    let why = not_ready_message(child);
    let message = format!("created the Database again, so that the retained data can be {archived}: {why}");
    Error::waiting(Reason::Offboarding, message)
}
