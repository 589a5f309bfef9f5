//! Cleanup of a deleted Database. Reads the status, where the name of the database was written before the database was created; of
//! the spec, only the deletion policy counts.

use std::time::Duration;

use ahoi_api::{Database, DatabaseServer, DeletionPolicy, EventReason, Reason};
use ahoi_reconcile::{Error, EventType, age};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use tracing::warn;

use crate::context::Context;
use crate::object;
use crate::outage::is_usable;
use crate::pending;
use crate::postgres::names::Names;
use crate::removal::{Removal, apply_deletion_policy};
use crate::verifiers;

/// How long a deletion waits for a server that is unreachable or refuses; less than the delay after the first attempt, so that
/// the second is the last.
const SERVER_TIMEOUT: Duration = Duration::from_secs(20);
/// Time limit of one attempt: more than that of a statement, and less than that of a reconcile.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(75);

/// Closes, archives or drops the database, as its deletion policy demands.
pub async fn cleanup(context: &Context, database: &Database) -> Result<(), Error> {
    context.remembered.forget(&database.uid().unwrap_or_default());
    let Some((server, names)) = place(database) else { return Ok(()) };
    let (identity, policy) = (object::identity(database, &context.cluster), database.spec.deletion_policy);
    let removal = Removal { names, identity, policy, since: deleted_at(database) };
    remove(context, database, server, &removal).await?;
    verifiers::forget(context, &removal.names).await
}

async fn remove(context: &Context, database: &Database, server: String, removal: &Removal) -> Result<(), Error> {
    let names = &removal.names;
    // An unreadable server has not been deleted.
    let found =
        context.caches.servers.find("", &server).map_err(|error| Error::waiting(error.reason(), error.to_string()))?;
    let Some(server) = found else {
        let note = format!(
            "DatabaseServer {server} was deleted; database {} stays on the server as it is, drop it there if it is not needed",
            names.database
        );
        record_event(context, database, None, EventReason::DatabaseServerNotFound, note);
        return Ok(());
    };
    let attempt = tokio::time::timeout(ATTEMPT_TIMEOUT, on_server(context, database, &server, removal)).await;
    let error = match attempt {
        Ok(Ok(())) => return Ok(()),
        Ok(Err(error)) => error,
        Err(_) => {
            anyhow::anyhow!("DatabaseServer {} did not answer within {ATTEMPT_TIMEOUT:?}", server.name_any()).into()
        }
    };
    let is_overdue = age(&removal.since, Timestamp::now()) >= SERVER_TIMEOUT;
    match error {
        // One broken connection is retried: a server is unreachable when its own status reports it.
        error @ Error::Waiting { .. } if is_usable(&server) => Err(error),
        Error::Waiting { message, .. } | Error::Structural { message, .. } if is_overdue => {
            postpone(context, database, &server, removal, message).await
        }
        Error::Other(refusal) if is_overdue => {
            postpone(context, database, &server, removal, format!("{refusal:#}")).await
        }
        Error::Structural { reason, message } => Err(Error::waiting(reason, message)),
        Error::Other(refusal) => Err(Error::waiting(Reason::RemovalRefused, format!("{refusal:#}"))),
        error => Err(error),
    }
}

/// Lets the object be deleted although its server has not applied the policy: the status of the server keeps the removal.
async fn postpone(
    context: &Context,
    database: &Database,
    server: &DatabaseServer,
    removal: &Removal,
    why: String,
) -> Result<(), Error> {
    let (name, removed, policy) = (server.name_any(), &removal.names.database, removal.policy);
    match pending::postpone(context, &name, removal, &why).await {
        // The next sweep closes it as a database without an object.
        Err(Error::Waiting { .. }) if policy == DeletionPolicy::Retain => {}
        outcome => outcome?,
    }
    let note = format!(
        "database {removed} could not be removed (policy {policy:?}): {why}. The removal is in status.pendingRemovals of \
         DatabaseServer {name} and is repeated until it succeeds"
    );
    record_event(context, database, Some(server), EventReason::RemovalPostponed, note);
    if policy == DeletionPolicy::Retain
        && let Ok(instance) = context.instance(server)
    {
        instance.memory.lock().unclaimed.insert(removal.identity.object.clone());
    }
    Ok(())
}

async fn on_server(
    context: &Context,
    database: &Database,
    server: &DatabaseServer,
    removal: &Removal,
) -> Result<(), Error> {
    let instance = context.instance(server)?;
    if let Some(note) = apply_deletion_policy(&instance, removal).await? {
        record_event(context, database, Some(server), Reason::DatabaseNotOwned, note);
    }
    Ok(())
}

fn place(database: &Database) -> Option<(String, Names)> {
    let status = database.status.as_ref()?;
    Some((status.server.clone()?, Names::of(status.database_name.as_deref()?)))
}

fn deleted_at(database: &Database) -> Time {
    database.metadata.deletion_timestamp.clone().unwrap_or_else(|| Time(Timestamp::now()))
}

/// Records what stays on the server. On the DatabaseServer as well, because a namespace that is being deleted accepts no events.
fn record_event(
    context: &Context,
    database: &Database,
    server: Option<&DatabaseServer>,
    reason: impl Into<String>,
    note: String,
) {
    let reason = reason.into();
    warn!(reason, "{note}");
    context.platform.event(database, EventType::Warning, &reason, &note);
    if let Some(server) = server {
        context.platform.event(server, EventType::Warning, reason, note);
    }
}

#[cfg(test)]
mod tests;
