//! Poolers' logins of deleted DatabaseServers. They have a password and may look up those of customers. Poolers do not need them
//! after they have the login of the present DatabaseServer.

use std::collections::HashSet;

use ahoi_api::{DatabaseServer, EventReason};
use ahoi_reconcile::{Error, EventType};
use kube::ResourceExt;
use postgres_protocol::escape::escape_identifier as id;
use tracing::warn;

use super::pooler::{LoginOwner, drop_login};
use crate::context::Context;
use crate::memory::Instance;
use crate::postgres::failure::Failure;

/// Poolers' logins whose comment contains a text.
const MARKED: &str = "SELECT rolname::text, shobj_description(oid, 'pg_authid') FROM pg_roles \
     WHERE rolname ~ '^ahoi_pooler_[0-9a-f]{8}_[ab]$' AND strpos(shobj_description(oid, 'pg_authid'), $1) > 0";

/// Drops the logins of this cluster that belong to no DatabaseServer any more. A login that had a session at one of the last two
/// sweeps stays: a pooler has not changed over yet.
pub async fn drop_unused(context: &Context, server: &DatabaseServer, instance: &Instance) -> Result<(), Error> {
    let (postgres, error) = (&instance.postgres, |failure: Failure| failure.into_error(&instance.name));
    let found = postgres.pairs(MARKED, &context.cluster.id).await.map_err(error)?;
    let living: HashSet<_> = context.caches.servers.all().iter().filter_map(|server| server.uid()).collect();
    let mut unused = HashSet::new();
    for login in removed(&found, &context.cluster.id, &living) {
        if !postgres.is_used(login).await.map_err(error)? {
            unused.insert(login.to_owned());
        }
    }
    let before = std::mem::replace(&mut instance.memory.lock().unused_poolers, unused.clone());
    for login in unused.intersection(&before) {
        match postgres.run(&drop_login(login)).await {
            Ok(()) => {
                let note = format!("dropped login {login}, which poolers used for a deleted DatabaseServer");
                context.platform.event(server, EventType::Normal, EventReason::RemovedLoginDropped, note);
            }
            Err(Failure::Refused { code, message }) => {
                warn!(
                    server = instance.name,
                    login, code, message, "cannot drop the login of a deleted DatabaseServer"
                );
                postgres.run(&format!("ALTER ROLE {} NOLOGIN", id(login))).await.map_err(error)?;
            }
            Err(failure) => return Err(error(failure)),
        }
    }
    Ok(())
}

/// The logins of this cluster whose DatabaseServer does not exist, of these logins and their comments.
fn removed<'a>(found: &'a [(String, String)], cluster: &str, living: &HashSet<String>) -> Vec<&'a str> {
    let is_removed = |comment: &str| {
        let owner = serde_json::from_str::<LoginOwner>(comment);
        owner.is_ok_and(|owner| owner.cluster == cluster && !living.contains(&owner.server))
    };
    found.iter().filter(|(_, comment)| is_removed(comment)).map(|(login, _)| login.as_str()).collect()
}

#[cfg(test)]
mod tests;
