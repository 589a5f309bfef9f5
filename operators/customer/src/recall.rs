//! Data that is retained although its Customer is deleted by another policy: the feature was turned off before, or
//! somebody deleted the Database.
//!
//! Only a Database that has the data can have it archived or deleted. So it is made again, finds the data by its name, and
//! goes like any other when it is Ready.

use ahoi_api::{Customer, Database, DatabaseSpec, DeletionPolicy};
use ahoi_reconcile::{Class, Error, EventType, is_ready, not_ready_message};
use kube::ResourceExt;

use crate::children::only_child;
use crate::features::database::database_child;
use crate::offboarding::{Offboarding, definition_is_going, is_overdue, note};
use crate::resolve::database_if_on;
use crate::story::OFFBOARDING;

/// Sees to it that data that is to go has a Database. `Err(Waiting)` until it has; `false`: the definition is being
/// deleted, and everything stays.
pub async fn recall(leaving: &Offboarding<'_>) -> Result<bool, Error> {
    let &Offboarding { platform, children, customer, .. } = leaving;
    if customer.spec.deletion_policy == DeletionPolicy::Retain {
        return Ok(true);
    }
    let is_retained = customer.status.as_ref().is_some_and(|status| status.database_retained);
    let child = only_child(&children.databases, customer);
    if let Some(going) = child.as_ref().filter(|child| child.metadata.deletion_timestamp.is_some()) {
        // It goes by orders that are not the customer's, and leaves the data behind.
        if going.spec.deletion_policy == DeletionPolicy::Retain && !is_retained {
            note(leaving, true).await?;
        }
        return Ok(true);
    }
    if !is_retained {
        return Ok(true);
    }
    if definition_is_going(&platform.client).await? {
        return Ok(false);
    }
    match child {
        Some(child) => has_data(leaving, &child).await,
        None => make_again(leaving).await,
    }
}

async fn make_again(leaving: &Offboarding<'_>) -> Result<bool, Error> {
    let &Offboarding { children, customer, plan, .. } = leaving;
    let spec = DatabaseSpec { deletion_policy: customer.spec.deletion_policy, ..database_if_on(customer, plan) };
    match children.databases.apply(customer, database_child(&customer.name_any(), spec)).await {
        Ok(child) => Err(waiting(customer, &child)),
        // Its namespace is gone, or its name is taken.
        Err(error)
            if is_overdue(customer.metadata.deletion_timestamp.as_ref())
                && matches!(error.class(), Class::Waiting | Class::Structural | Class::Terminal) =>
        {
            leave(leaving, &error.to_string()).await
        }
        Err(error) => Err(error),
    }
}

/// One that is Ready has its data. That it was to be waited for is forgotten before it is told to go, or it would be made
/// again when it is gone.
async fn has_data(leaving: &Offboarding<'_>, child: &Database) -> Result<bool, Error> {
    let customer = leaving.customer;
    if is_ready(child) {
        note(leaving, false).await?;
        return Ok(true);
    }
    let since = [&customer.metadata.deletion_timestamp, &child.metadata.creation_timestamp];
    if since.into_iter().all(|since| is_overdue(since.as_ref())) {
        return leave(leaving, &not_ready_message(child)).await;
    }
    Err(waiting(customer, child))
}

/// Gives up, and says so. Nothing is destroyed by it.
async fn leave(leaving: &Offboarding<'_>, why: &str) -> Result<bool, Error> {
    let &Offboarding { platform, customer, .. } = leaving;
    note(leaving, false).await?;
    let policy = customer.spec.deletion_policy;
    let message = format!("data that was retained may be left on its server, although the policy is {policy:?}: {why}");
    tracing::warn!(customer = customer.name_any(), "{message}");
    platform.event(customer, EventType::Warning, "RetainedDataLeft", message);
    Ok(true)
}

fn waiting(customer: &Customer, child: &Database) -> Error {
    let done = if customer.spec.deletion_policy == DeletionPolicy::Archive { "archived" } else { "deleted" };
    let why = not_ready_message(child);
    let message = format!("the Database is made again, to have the data {done} that was retained: {why}");
    Error::waiting(OFFBOARDING, message)
}
