//! Pending removals: those of deleted Databases whose server was unreachable or refused. The status of the DatabaseServer lists them
//! until they are done.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use ahoi_api::{Database, DatabaseServer, DeletionPolicy, EventReason, PendingRemoval, Reason};
use ahoi_reconcile::{Error, EventType};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use tracing::warn;

use crate::context::Context;
use crate::memory::{Instance, Retry};
use crate::postgres::desired::Identity;
use crate::postgres::model::Observed;
use crate::postgres::names::{Names, is_database};
use crate::postgres::observe;
use crate::postgres::ownership::State;
use crate::removal::{Removal, apply_deletion_policy};

/// Maximum number in one object; deletions beyond it wait for the server.
const MOST: usize = 2000;
/// Maximum length of PostgreSQL's message for each of them, in characters.
const MESSAGE_LENGTH: usize = 256;
/// Maximum number of removals in a sweep, and time after which a sweep begins no further one: a server that is reachable again
/// has more to do.
const AT_ONCE: usize = 20;
const BUDGET: Duration = Duration::from_secs(30);
/// Delay after the first refusal, which doubles with each further one, and its maximum.
const FIRST_DELAY: Duration = Duration::from_secs(30);
const LONGEST_DELAY: Duration = Duration::from_secs(600);

/// Whether the data of an object of this name is being dropped or archived: no other object may adopt it.
pub fn is_pending(server: &DatabaseServer, database: &Database) -> bool {
    of_name(server, database).any(|removal| removal.policy != DeletionPolicy::Retain)
}

/// Whether a server has retained data for an object of this name whose logins are not closed yet.
pub fn is_kept(server: &DatabaseServer, database: &Database) -> bool {
    of_name(server, database).any(|removal| removal.policy == DeletionPolicy::Retain)
}

fn of_name<'a>(server: &'a DatabaseServer, database: &Database) -> impl Iterator<Item = &'a PendingRemoval> + use<'a> {
    let (namespace, name) = (database.namespace().unwrap_or_default(), database.name_any());
    pending(server).iter().filter(move |removal| removal.namespace == namespace && removal.name == name)
}

/// Number of pending removals of a server.
pub fn count(context: &Context, server: &str) -> usize {
    context.caches.servers.get(server).map_or(0, |server| pending(&server).len())
}

/// Adds a removal to the status of its server, with the reason why it is not done yet.
pub async fn postpone(context: &Context, server: &str, removal: &Removal, why: &str) -> Result<(), Error> {
    let Removal { names, identity, policy, since } = removal;
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
            let message = format!(
                "DatabaseServer {server} has {MOST} pending removals, which is the maximum; waiting for the server"
            );
            return Err(Error::waiting(Reason::TooManyPendingRemovals, message));
        }
        removals.push(removal);
        Ok(())
    })
    .await
}

/// Finds removals that have begun and that the status does not list: the DatabaseServer was deleted and created again, or a
/// finalizer was removed. The ownership marker records the policy; two sweeps in a row must find it.
pub async fn find_unfinished(
    context: &Context,
    server: &DatabaseServer,
    instance: &Instance,
    observed: &Observed,
) -> Result<(), Error> {
    let living: HashSet<_> = context.caches.databases.all().iter().filter_map(|database| database.uid()).collect();
    let marked = observed.databases.iter().filter_map(|(name, state)| Some((name, state.ownership()?)));
    let begun = marked.filter(|(name, ownership)| {
        let policy = policy_of(ownership.state);
        let is_known =
            living.contains(&ownership.uid) || pending(server).iter().any(|removal| removal.uid == ownership.uid);
        is_database(name) && policy.is_some() && ownership.cluster == context.cluster.id && !is_known
    });
    let found: Vec<_> = begun.collect();
    let now = found.iter().map(|(name, _)| (*name).clone()).collect();
    let before = std::mem::replace(&mut instance.memory.lock().unfinished, now);
    for (name, ownership) in found.into_iter().filter(|(name, _)| before.contains(*name)).take(AT_ONCE) {
        let Some(policy) = policy_of(ownership.state) else { continue };
        let names = Names::of(name);
        let identity = Identity::from_ownership(&ownership, observe::owner_of(&instance.postgres, &names).await?);
        // Without the name, the removal could not prove which object the database belongs to.
        if context.cluster.object(&identity.namespace, &identity.name) != ownership.object {
            warn!(
                server = instance.name,
                database = name,
                "cannot finish the removal: ahoi.databases does not name its Database"
            );
            continue;
        }
        let note = format!(
            "resuming the unfinished removal of database {name} of Database {}/{} (policy {policy:?})",
            identity.namespace, identity.name
        );
        context.platform.event(server, EventType::Warning, EventReason::RemovalResumed, &note);
        let removal = Removal { names, identity, policy, since: Time(Timestamp::now()) };
        postpone(context, &instance.name, &removal, "not finished").await?;
    }
    Ok(())
}

/// The deletion policy that an ownership marker records.
fn policy_of(state: State) -> Option<DeletionPolicy> {
    match state {
        State::Deleting => Some(DeletionPolicy::Delete),
        State::Archived => Some(DeletionPolicy::Archive),
        State::Active | State::Retained => None,
    }
}

/// Carries out pending removals, a few in each sweep. What the server refuses is retried with growing delays.
pub async fn catch_up(context: &Context, server: &DatabaseServer, instance: &Instance) -> Result<(), Error> {
    let begun = Instant::now();
    // From the cache, which has what this sweep added.
    let removals = context.caches.servers.get(&instance.name).map(|now| pending(&now).to_vec()).unwrap_or_default();
    // A removal that always fails slowly must not block the others.
    let round = usize::try_from(instance.memory.lock().round).unwrap_or_default();
    let first = round % removals.len().max(1);
    let due: Vec<_> = {
        let mut memory = instance.memory.lock();
        memory.removals.retain(|uid, _| removals.iter().any(|removal| removal.uid == *uid));
        let is_due =
            |removal: &&PendingRemoval| memory.removals.get(&removal.uid).is_none_or(|retry| retry.next <= begun);
        removals.iter().cycle().skip(first).take(removals.len()).filter(is_due).take(AT_ONCE).cloned().collect()
    };
    for removal in due {
        if begun.elapsed() > BUDGET {
            break;
        }
        carry_out(context, server, instance, &removal).await?;
    }
    Ok(())
}

async fn carry_out(
    context: &Context,
    server: &DatabaseServer,
    instance: &Instance,
    removal: &PendingRemoval,
) -> Result<(), Error> {
    let PendingRemoval { database, namespace, name, uid, policy, .. } = removal;
    let outcome = match heir(context, &instance.name, removal) {
        Some(heir) => Ok(Some(format!("database {database} was not changed: it belongs to Database {heir} now"))),
        None => apply_deletion_policy(instance, &from_status(context, removal)).await,
    };
    let refusal = match outcome {
        // The server is unreachable again.
        Err(error @ Error::Waiting { .. }) => return Err(error),
        Err(error) => {
            warn!(server = instance.name, database, %error, "the server refused a pending removal");
            refused(instance, uid);
            let why: String = error.to_string().chars().take(MESSAGE_LENGTH).collect();
            return change(context, &instance.name, |removals| {
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
    change(context, &instance.name, |removals| {
        removals.retain(|known| known.uid != *uid);
        Ok(())
    })
    .await
}

/// Another Database that has adopted the database meanwhile: it belongs to that one, regardless of the ownership marker.
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

fn refused(instance: &Instance, uid: &str) {
    let mut memory = instance.memory.lock();
    let refused = memory.removals.get(uid).map_or(0, |retry| retry.refused);
    let retry = Retry { next: Instant::now() + delay_after(refused), refused: refused.saturating_add(1) };
    memory.removals.insert(uid.to_owned(), retry);
}

fn delay_after(refused: u32) -> Duration {
    FIRST_DELAY.saturating_mul(1 << refused.min(10)).min(LONGEST_DELAY)
}

fn from_status(context: &Context, removal: &PendingRemoval) -> Removal {
    let PendingRemoval { database, namespace, name, uid, policy, since, .. } = removal.clone();
    let identity = Identity::new(&context.cluster, namespace, name, uid);
    Removal { names: Names::of(&database), identity, policy, since }
}

fn pending(server: &DatabaseServer) -> &[PendingRemoval] {
    server.status.as_ref().map(|status| status.pending_removals.as_slice()).unwrap_or_default()
}

async fn change(
    context: &Context,
    server: &str,
    change: impl FnOnce(&mut Vec<PendingRemoval>) -> Result<(), Error>,
) -> Result<(), Error> {
    // Reads and writes the list as a whole; no other process writes it.
    let _lock = context.removals.lock().await;
    let Some(server) = context.caches.servers.get(server) else { return Ok(()) };
    let mut status = server.status.clone().unwrap_or_default();
    change(&mut status.pending_removals)?;
    if status.pending_removals != pending(&server) {
        context.platform.write_status(&context.caches.servers, &server, &status).await?;
    }
    Ok(())
}
