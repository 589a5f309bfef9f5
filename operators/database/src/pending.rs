//! Removals that a server has not carried out yet: it was unreachable when the Database was deleted, or it refused. The Database
//! goes all the same; the server's status remembers what is to become of the data until it is done.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use ahoi_api::{Database, DatabaseServer, DeletionPolicy, PendingRemoval};
use ahoi_reconcile::{Error, EventType};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use tracing::warn;

use crate::context::Context;
use crate::database::cleanup::{self, Order};
use crate::postgres::desired::Identity;
use crate::postgres::model::Observed;
use crate::postgres::names::{Names, is_database};
use crate::postgres::observe;
use crate::postgres::ownership::State;
use crate::postgres::server::ServerPool;
use crate::server::Retry;

/// So many fit into an object; whoever comes later waits for the server.
const MOST: usize = 2000;
/// How much of the server's answer is kept for each of them, in characters.
const MESSAGE_LENGTH: usize = 256;
/// How many are done in one sweep, and how long it may take until the last of them is begun: a server that has just come back
/// has more to do.
const AT_ONCE: usize = 20;
const BUDGET: Duration = Duration::from_secs(30);
/// The pause after the first refusal, which doubles with each further one, and the longest.
const FIRST_PAUSE: Duration = Duration::from_secs(30);
const LONGEST_PAUSE: Duration = Duration::from_secs(600);

/// Whether the data of an object of this name is to go: no other object may have it any more.
pub fn is_pending(server: &DatabaseServer, database: &Database) -> bool {
    of_name(server, database).any(|removal| removal.policy != DeletionPolicy::Retain)
}

/// Whether a server has data that an object of this name is to find, and whose logins are not closed yet.
pub fn is_kept(server: &DatabaseServer, database: &Database) -> bool {
    of_name(server, database).any(|removal| removal.policy == DeletionPolicy::Retain)
}

fn of_name<'a>(server: &'a DatabaseServer, database: &Database) -> impl Iterator<Item = &'a PendingRemoval> + use<'a> {
    let (namespace, name) = (database.namespace().unwrap_or_default(), database.name_any());
    pending(server).iter().filter(move |removal| removal.namespace == namespace && removal.name == name)
}

/// How many removals a server has not carried out.
pub fn count(context: &Context, server: &str) -> usize {
    context.caches.servers.get(server).map_or(0, |server| pending(&server).len())
}

/// Writes down what is to be done when the server does it, and why it has not yet.
pub async fn postpone(context: &Context, server: &str, order: &Order, why: &str) -> Result<(), Error> {
    let Order { names, identity, policy, since } = order;
    let removal = PendingRemoval {
        database: names.database.clone(),
        namespace: identity.namespace.clone(),
        name: identity.name.clone(),
        uid: identity.uid.clone(),
        policy: *policy,
        since: since.clone(),
        message: Some(why.chars().take(MESSAGE_LENGTH).collect()),
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

/// Finds removals that were begun and that the status does not know: the DatabaseServer was deleted and created again, or a
/// finalizer was removed. The stamp on the server says what was ordered; two sweeps in a row have to see it.
pub async fn find_unfinished(
    context: &Context,
    server: &DatabaseServer,
    pool: &ServerPool,
    observed: &Observed,
) -> Result<(), Error> {
    let living: HashSet<_> = context.caches.databases.all().iter().filter_map(|database| database.uid()).collect();
    let stamped = observed.databases.iter().filter_map(|(name, state)| Some((name, state.stamp()?)));
    let begun = stamped.filter(|(name, stamp)| {
        let policy = policy_of(stamp.state);
        let is_known = living.contains(&stamp.uid) || pending(server).iter().any(|removal| removal.uid == stamp.uid);
        is_database(name) && policy.is_some() && stamp.cluster == context.cluster.id && !is_known
    });
    let found: Vec<_> = begun.collect();
    let now = found.iter().map(|(name, _)| (*name).clone()).collect();
    let before = std::mem::replace(&mut pool.memory.lock().unfinished, now);
    for (name, stamp) in found.into_iter().filter(|(name, _)| before.contains(*name)).take(AT_ONCE) {
        let Some(policy) = policy_of(stamp.state) else { continue };
        let names = Names::of(name);
        let identity = Identity::stamped(&stamp, observe::owner_of(pool, &names).await?);
        // Without its name the removal could not prove whose the database is.
        if context.cluster.object(&identity.namespace, &identity.name) != stamp.object {
            warn!(
                server = pool.name,
                database = name,
                "a removal was begun, and ahoi.databases does not say of which Database"
            );
            continue;
        }
        let note = format!(
            "the removal of database {name} of Database {}/{} (policy {policy:?}) was begun and not finished; it goes on",
            identity.namespace, identity.name
        );
        context.platform.event(server, EventType::Warning, "RemovalResumed", &note);
        let order = Order { names, identity, policy, since: Time(Timestamp::now()) };
        postpone(context, &pool.name, &order, "begun and not finished").await?;
    }
    Ok(())
}

/// What the stamp of a database says is to become of it.
fn policy_of(state: State) -> Option<DeletionPolicy> {
    match state {
        State::Deleting => Some(DeletionPolicy::Delete),
        State::Archived => Some(DeletionPolicy::Archive),
        State::Active | State::Retained => None,
    }
}

/// Carries out what is pending, a few in each sweep. What the server refuses is tried again later and later.
pub async fn catch_up(context: &Context, server: &DatabaseServer, pool: &ServerPool) -> Result<(), Error> {
    let begun = Instant::now();
    // With what this sweep has found.
    let removals = context.caches.servers.get(&pool.name).map(|now| pending(&now).to_vec()).unwrap_or_default();
    // One that fails slowly each time must not keep the others from their turn.
    let round = usize::try_from(pool.memory.lock().round).unwrap_or_default();
    let first = round % removals.len().max(1);
    let due: Vec<_> = {
        let mut memory = pool.memory.lock();
        memory.removals.retain(|uid, _| removals.iter().any(|removal| removal.uid == *uid));
        let is_due =
            |removal: &&PendingRemoval| memory.removals.get(&removal.uid).is_none_or(|retry| retry.next <= begun);
        removals.iter().cycle().skip(first).take(removals.len()).filter(is_due).take(AT_ONCE).cloned().collect()
    };
    for removal in due {
        if begun.elapsed() > BUDGET {
            break;
        }
        carry_out(context, server, pool, &removal).await?;
    }
    Ok(())
}

async fn carry_out(
    context: &Context,
    server: &DatabaseServer,
    pool: &ServerPool,
    removal: &PendingRemoval,
) -> Result<(), Error> {
    let PendingRemoval { database, namespace, name, uid, policy, .. } = removal;
    let outcome = match heir(context, &pool.name, removal) {
        Some(heir) => Ok(Some(format!("database {database} is left as it is: it belongs to Database {heir} now"))),
        None => cleanup::obey(pool, &order(context, removal)).await,
    };
    let refusal = match outcome {
        // It is unreachable again.
        Err(error @ Error::Waiting { .. }) => return Err(error),
        Err(error) => {
            warn!(server = pool.name, database, "a pending removal is refused: {error}");
            refused(pool, uid);
            let why: String = error.to_string().chars().take(MESSAGE_LENGTH).collect();
            return change(context, &pool.name, |removals| {
                let known = removals.iter_mut().filter(|known| known.uid == *uid);
                known.for_each(|known| known.message = Some(why.clone()));
                Ok(())
            })
            .await;
        }
        Ok(refusal) => refusal,
    };
    let (type_, what) = match refusal {
        None => (EventType::Normal, format!("carried out ({policy:?})")),
        Some(refusal) => (EventType::Warning, refusal),
    };
    let note = format!("the pending removal of database {database} of Database {namespace}/{name}: {what}");
    context.platform.event(server, type_, "PendingRemovalDone", note);
    change(context, &pool.name, |removals| {
        removals.retain(|known| known.uid != *uid);
        Ok(())
    })
    .await
}

/// Another Database that the database was given to meanwhile: whatever its stamp says, it is that one's.
fn heir(context: &Context, server: &str, removal: &PendingRemoval) -> Option<String> {
    let all = context.caches.databases.all();
    let heir = all.iter().find(|other| {
        let status = other.status.as_ref();
        other.uid().as_ref() != Some(&removal.uid)
            && status.and_then(|status| status.server.as_deref()) == Some(server)
            && status.and_then(|status| status.database_name.as_ref()) == Some(&removal.database)
    })?;
    Some(format!("{}/{}", heir.namespace().unwrap_or_default(), heir.name_any()))
}

fn refused(pool: &ServerPool, uid: &str) {
    let mut memory = pool.memory.lock();
    let refused = memory.removals.get(uid).map_or(0, |retry| retry.refused);
    let retry = Retry { next: Instant::now() + pause_after(refused), refused: refused.saturating_add(1) };
    memory.removals.insert(uid.to_owned(), retry);
}

fn pause_after(refused: u32) -> Duration {
    FIRST_PAUSE.saturating_mul(1 << refused.min(10)).min(LONGEST_PAUSE)
}

fn order(context: &Context, removal: &PendingRemoval) -> Order {
    let PendingRemoval { database, namespace, name, uid, policy, since, .. } = removal.clone();
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
