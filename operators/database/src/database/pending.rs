//! Removals that wait for their server. A Database that is deleted while its server is away goes all the same; what it had
//! said is to become of the data stands in the server's status until it is done.

use std::time::{Duration, Instant};

use ahoi_api::{Database, DatabaseServer, PendingRemoval};
use ahoi_reconcile::{Error, EventType};
use kube::ResourceExt;
use tracing::warn;

use super::cleanup::{self, Order};
use super::desired::Identity;
use super::names::Names;
use crate::context::Context;
use crate::server::ServerPool;

/// So many fit into an object; whoever comes later waits for the server.
const MOST: usize = 2000;
/// How many are done in one sweep, and how long it may take until the last of them is begun: a server that has just come back
/// has more to do.
const AT_ONCE: usize = 20;
const BUDGET: Duration = Duration::from_secs(30);

/// Whether the data of an object of this name is to go: nobody may have it any more.
pub fn is_pending(server: &DatabaseServer, database: &Database) -> bool {
    let (namespace, name) = (database.namespace().unwrap_or_default(), database.name_any());
    pending(server).iter().any(|removal| removal.namespace == namespace && removal.name == name)
}

/// Writes down what is to be done when the server is back.
pub async fn postpone(context: &Context, server: &str, order: &Order) -> Result<(), Error> {
    let Order { names, identity, policy, since } = order;
    let removal = PendingRemoval {
        database: names.database.clone(),
        namespace: identity.namespace.clone(),
        name: identity.name.clone(),
        uid: identity.uid.clone(),
        policy: *policy,
        since: since.clone(),
    };
    change(context, server, |removals| {
        removals.retain(|known| known.uid != removal.uid);
        if removals.len() >= MOST {
            let message =
                format!("{MOST} removals wait for the DatabaseServer {server} already; this one waits for it, too");
            return Err(Error::waiting("TooManyPendingRemovals", message));
        }
        removals.push(removal);
        Ok(())
    })
    .await
}

/// Does what waited for the server, a few in each sweep. What cannot be done is tried again when its turn comes.
pub async fn catch_up(context: &Context, server: &DatabaseServer, pool: &ServerPool) -> Result<(), Error> {
    let (removals, begun) = (pending(server), Instant::now());
    // One that fails slowly each time must not keep the others from their turn.
    let round = usize::try_from(pool.memory.lock().round).unwrap_or_default();
    let first = round % removals.len().max(1);
    for removal in removals.iter().cycle().skip(first).take(removals.len().min(AT_ONCE)) {
        if begun.elapsed() > BUDGET {
            break;
        }
        let order = order(context, removal);
        let PendingRemoval { database, namespace, name, policy, .. } = removal;
        match cleanup::obey(pool, &order).await {
            Ok(refusal) => {
                let (type_, what) = match refusal {
                    None => (EventType::Normal, format!("carried out ({policy:?})")),
                    Some(refusal) => (EventType::Warning, refusal),
                };
                let note = format!(
                    "database {database} of Database {namespace}/{name}, which was deleted while the server was away: {what}"
                );
                context.platform.event(server, type_, "PendingRemovalDone", note);
                change(context, &pool.name, |removals| {
                    removals.retain(|known| known.uid != removal.uid);
                    Ok(())
                })
                .await?;
            }
            // It is away again.
            Err(error @ Error::Waiting { .. }) => return Err(error),
            Err(error) => {
                warn!(server = pool.name, database, "a removal that waited for the server is not done: {error}")
            }
        }
    }
    Ok(())
}

fn order(context: &Context, removal: &PendingRemoval) -> Order {
    let PendingRemoval { database, namespace, name, uid, policy, since } = removal.clone();
    let identity = Identity::new(&context.cluster, namespace, name, uid);
    Order { names: Names::of(&database), identity, policy, since }
}

fn pending(server: &DatabaseServer) -> &[PendingRemoval] {
    server.status.as_ref().map(|status| status.pending_removals.as_slice()).unwrap_or_default()
}

async fn change(
    context: &Context,
    server: &str,
    change: impl FnOnce(&mut Vec<PendingRemoval>) -> Result<(), Error>,
) -> Result<(), Error> {
    // The list is read and written as one, and this process is the only one that writes it.
    let _alone = context.removals.lock().await;
    let Some(server) = context.caches.servers.get(server) else { return Ok(()) };
    let mut status = server.status.clone().unwrap_or_default();
    change(&mut status.pending_removals)?;
    if status.pending_removals != pending(&server) {
        context.platform.write_status(&context.caches.servers, &server, &status).await?;
    }
    Ok(())
}
