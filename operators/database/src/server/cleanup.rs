//! Cleanup of a deleted DatabaseServer: drops the poolers' logins, unless databases are placed on it. These are served until a
//! DatabaseServer describes their server again, which then drops the former logins ([`removed_poolers`](super::removed_poolers)).

use ahoi_api::{DatabaseServer, EventReason, Passwords};
use ahoi_reconcile::{Class, Error, EventType};
use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;
use postgres_protocol::escape::escape_literal as literal;

use super::{pooler, pooler_secret};
use crate::context::Context;
use crate::postgres::failure::Failure;

/// How long an unreachable server blocks the deletion of its object.
const SERVER_TIMEOUT: SignedDuration = SignedDuration::from_mins(1);

/// Drops the poolers' logins. A server that refuses does not block the deletion: an event names the logins.
pub async fn remove(context: &Context, server: &DatabaseServer) -> Result<(), Error> {
    let is_used = !context.placed_on(&server.name_any()).is_empty();
    let has_logins = server.status.as_ref().is_some_and(|status| status.passwords == Some(Passwords::Lookup));
    if is_used || !has_logins {
        return Ok(());
    }
    let logins = pooler::names(&server.uid().unwrap_or_default());
    if let Err(error) = drop_logins(context, server, &logins).await {
        let may_pass = matches!(error.class(), Class::Transient | Class::Conflict | Class::Waiting);
        if may_pass && !has_waited(server) {
            return Err(error);
        }
        let note =
            format!("could not drop the logins {}: {error}. Drop them on the server if they exist", logins.join(", "));
        context.platform.event(server, EventType::Warning, EventReason::PoolerLoginsLeft, note);
    }
    pooler_secret::prune(context).await
}

fn has_waited(server: &DatabaseServer) -> bool {
    let since = server.metadata.deletion_timestamp.as_ref();
    since.is_none_or(|since| Timestamp::now().duration_since(since.0) > SERVER_TIMEOUT)
}

async fn drop_logins(context: &Context, server: &DatabaseServer, logins: &[String; 2]) -> Result<(), Error> {
    let instance = context.instance(server)?;
    let error = |failure: Failure| failure.into_error(&instance.name);
    for login in logins {
        let sql = format!(
            "DO $$ BEGIN IF EXISTS (SELECT FROM pg_roles WHERE rolname = {}) THEN {}; END IF; END $$",
            literal(login),
            pooler::drop_login(login)
        );
        instance.postgres.run(&sql).await.map_err(error)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
