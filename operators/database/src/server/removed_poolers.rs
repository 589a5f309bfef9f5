//! The poolers' logins of DatabaseServers that were deleted. They have a password and may look up those of customers; nothing
//! needs them once the poolers have the login of the DatabaseServer that describes the server now.

use std::collections::HashSet;

use ahoi_api::DatabaseServer;
use ahoi_reconcile::{Error, EventType};
use kube::ResourceExt;
use postgres_protocol::escape::escape_identifier as id;
use tracing::warn;

use super::pooler::{Mark, drop_login};
use crate::context::Context;
use crate::postgres::server::{Failure, ServerPool};

/// Logins of poolers whose comment has a text in it.
const MARKED: &str = "SELECT rolname::text, shobj_description(oid, 'pg_authid') FROM pg_roles \
     WHERE rolname ~ '^ahoi_pooler_[0-9a-f]{8}_[ab]$' AND strpos(shobj_description(oid, 'pg_authid'), $1) > 0";

/// Drops the logins of this cluster that belong to no DatabaseServer any more. One that has a session at one of two looks in a
/// row is left: a pooler has not changed over yet.
pub async fn drop_unused(context: &Context, server: &DatabaseServer, pool: &ServerPool) -> Result<(), Error> {
    let error = |failure: Failure| failure.into_error(&pool.name);
    let found = pool.pairs(MARKED, &context.cluster.id).await.map_err(error)?;
    let living: HashSet<_> = context.caches.servers.all().iter().filter_map(|server| server.uid()).collect();
    let mut unused = HashSet::new();
    for login in removed(&found, &context.cluster.id, &living) {
        if !pool.is_used(login).await.map_err(error)? {
            unused.insert(login.to_owned());
        }
    }
    let before = std::mem::replace(&mut pool.memory.lock().unused_poolers, unused.clone());
    for login in unused.intersection(&before) {
        match pool.run(&drop_login(login)).await {
            Ok(()) => {
                let note =
                    format!("dropped login {login}, which the poolers had for a DatabaseServer that was deleted");
                context.platform.event(server, EventType::Normal, "RemovedLoginDropped", note);
            }
            Err(Failure::Refused { code, message }) => {
                warn!(server = pool.name, login, code, "cannot drop the login of a deleted DatabaseServer: {message}");
                pool.run(&format!("ALTER ROLE {} NOLOGIN", id(login))).await.map_err(error)?;
            }
            Err(failure) => return Err(error(failure)),
        }
    }
    Ok(())
}

/// Of these logins and their comments, those of this cluster whose DatabaseServer does not live.
fn removed<'a>(found: &'a [(String, String)], cluster: &str, living: &HashSet<String>) -> Vec<&'a str> {
    let is_removed = |comment: &str| {
        let mark = serde_json::from_str::<Mark>(comment);
        mark.is_ok_and(|mark| mark.cluster == cluster && !living.contains(&mark.server))
    };
    found.iter().filter(|(_, comment)| is_removed(comment)).map(|(login, _)| login.as_str()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_those_of_this_cluster_without_a_server() {
        let mark = |cluster: &str, server: &str| Mark { cluster: cluster.into(), server: server.into() }.comment();
        let found = [
            ("ahoi_pooler_00000001_a", mark("c1", "living")),
            ("ahoi_pooler_00000002_a", mark("c1", "deleted")),
            ("ahoi_pooler_00000003_a", mark("c2", "deleted")),
            ("ahoi_pooler_00000004_a", "of cluster c1, by a person".to_owned()),
        ]
        .map(|(login, comment)| (login.to_owned(), comment));
        assert_eq!(removed(&found, "c1", &["living".to_owned()].into()), ["ahoi_pooler_00000002_a"]);
    }
}
