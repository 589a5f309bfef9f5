//! Compares the databases of a server with their objects, and triggers reconciles of those that differ.

use std::collections::HashSet;
use std::sync::Arc;

use ahoi_api::{Database, DatabaseServer, DatabaseServerStatus, EventReason};
use ahoi_reconcile::{Error, EventType, ObjectRef, Progress, is_ready};
use kube::ResourceExt;
use tracing::{info, warn};

use super::disk;
use super::measure::{self, next_measurement};
use super::sweep::{self, Orphan, Wanted, ours};
use crate::context::Context;
use crate::memory::{Instance, Memory};
use crate::object;
use crate::postgres::desired::{Desired, Identity};
use crate::postgres::disk::end_sessions;
use crate::postgres::model::Observed;
use crate::postgres::observe;
use crate::postgres::removal::close;
use crate::quota::Level;
use crate::secret;
use crate::verifiers;

/// Compares every database with its object, and triggers those that differ.
pub async fn compare(
    context: &Context,
    instance: &Instance,
    observed: &Observed,
    placed: &[Arc<Database>],
) -> Result<(), Error> {
    let wanted: Vec<_> = placed.iter().filter_map(|database| Some((database, wanted(context, database)?))).collect();
    {
        let mut memory = instance.memory.lock();
        memory.round = memory.round.wrapping_add(1);
    }
    measure::measure(instance, &wanted.iter().map(|(_, wanted)| wanted).collect::<Vec<_>>()).await?;
    limit_temporary_files(context, instance, &wanted).await?;
    let memory = instance.memory.lock();
    let differs = |wanted: &Wanted| {
        sweep::differs(wanted, observed, &memory)
            || sweep::opens_or_closes(wanted, &memory)
            || lacks_verifier(context, wanted, observed)
    };
    for (database, _) in wanted.iter().filter(|(_, wanted)| differs(wanted)) {
        context.trigger.request(&ObjectRef::from_obj(&***database));
    }
    Ok(())
}

/// Measures the databases that were written to, and nothing else.
pub async fn measure(
    context: &Context,
    server: &DatabaseServer,
    instance: &Instance,
) -> Result<Progress<DatabaseServerStatus>, Error> {
    let placed = context.placed_on(&instance.name);
    let wanted: Vec<_> = placed.iter().filter_map(|database| Some((database, size_wanted(database)?))).collect();
    measure::measure(instance, &wanted.iter().map(|(_, wanted)| wanted).collect::<Vec<_>>()).await?;
    limit_temporary_files(context, instance, &wanted).await?;
    let is_news = |memory: &Memory, database: &Database, wanted: &Wanted| {
        sweep::opens_or_closes(wanted, memory) || is_ready(database) && sweep::is_size_news(wanted, memory)
    };
    let memory = instance.memory.lock();
    for (database, _) in wanted.iter().filter(|(database, wanted)| is_news(&memory, database, wanted)) {
        context.trigger.request(&ObjectRef::from_obj(&***database));
    }
    let since_sweep = memory.next_measurement.map_or(1, |(_, since_sweep)| since_sweep + 1);
    drop(memory);
    let requeue = next_measurement(instance, since_sweep);
    Ok(Progress::new(server.status.clone().unwrap_or_default()).requeue_in(requeue))
}

/// Ends the sessions of customers with more temporary files than storage.
async fn limit_temporary_files(
    context: &Context,
    instance: &Instance,
    wanted: &[(&Arc<Database>, Wanted)],
) -> Result<(), Error> {
    let too_much = |wanted: &Wanted| {
        let bytes = instance.memory.lock().temporary.get(&wanted.database).copied();
        bytes.is_some_and(|bytes| disk::is_too_much(bytes, wanted.storage))
    };
    for (database, wanted) in wanted.iter().filter(|(_, wanted)| too_much(wanted)) {
        end_sessions(&instance.postgres, &wanted.database).await?;
        warn!(server = instance.name, database = wanted.database, "ended sessions with too many temporary files");
        let note = format!(
            "ended the sessions of database {} that had temporary files: these were larger than its storage",
            wanted.database
        );
        context.platform.event(&***database, EventType::Warning, EventReason::TemporaryFilesRemoved, note);
    }
    Ok(())
}

fn wanted(context: &Context, database: &Database) -> Option<Wanted> {
    let wanted = size_wanted(database)?;
    Some(Wanted { desired: desired(context, database, &wanted.database), ..wanted })
}

/// The desired state of a Database that is Ready; others are reconciled anyway.
fn desired(context: &Context, database: &Database, name: &str) -> Option<Desired> {
    let namespace = database.namespace()?;
    let binding = context.caches.bindings.cache().get_in(&namespace, &secret::name_of(&database.name_any()))?;
    let verifier = secret::verifier(&binding)?;
    let access = Level::read(&database.status.as_ref()?.conditions).into();
    let (names, other) = object::logins(database.status.as_ref()?, Some(&binding), name);
    let desired = object::desired(database, &context.cluster, names, &verifier, other, access).ok()?;
    is_ready(database).then_some(desired)
}

/// Whether the agents lack the verifier of the login, which they cannot look up.
fn lacks_verifier(context: &Context, wanted: &Wanted, observed: &Observed) -> bool {
    let Some(desired) = &wanted.desired else { return false };
    let is_published = observed.hidden || verifiers::are_known(context, &desired.names.database);
    is_published && !verifiers::has(context, &desired.names.login, &desired.verifier)
}

/// Closes the logins of databases whose object was deleted without cleanup, and keeps their data.
pub async fn close_orphans(
    context: &Context,
    server: &DatabaseServer,
    instance: &Instance,
    observed: &Observed,
) -> Result<(), Error> {
    let databases = &context.caches.databases;
    let mut uids: HashSet<_> = databases.all().iter().filter_map(|database| database.uid()).collect();
    // Unreadable objects exist as well.
    uids.extend(databases.unreadable_uids());
    let (found, first_alarm) = {
        let mut memory = instance.memory.lock();
        let found = sweep::orphans(&ours(observed), &context.cluster.id, &uids, &mut memory);
        let first = found.too_many.is_some() && !std::mem::replace(&mut memory.alarmed, found.too_many.is_some());
        (found, first)
    };
    if first_alarm {
        let note = "many databases on this server have no Database any more, so their logins are not closed: restore the \
                    Databases, or drop the databases that are not needed";
        warn!(server = instance.name, count = found.too_many, "many databases have no object");
        context.platform.event(server, EventType::Warning, EventReason::ManyOrphans, note);
    }
    for Orphan { names, ownership } in found.close {
        let owner = observe::owner_of(&instance.postgres, &names).await?;
        let identity = Identity::from_ownership(&ownership, owner);
        match close(&instance.postgres, &names, &identity).await {
            Err(error @ Error::Waiting { .. }) => return Err(error),
            // The error is about one database, not about the server.
            Err(error) => {
                warn!(server = instance.name, database = names.database, %error, "cannot close the logins");
                continue;
            }
            Ok(()) => {}
        }
        verifiers::forget(context, &names).await?;
        info!(server = instance.name, database = names.database, "closed the logins of a database without object");
        let note = format!(
            "Database {}/{} of database {} was deleted without cleanup: closed its logins and kept its data",
            identity.namespace, identity.name, names.database
        );
        context.platform.event(server, EventType::Warning, EventReason::OrphanClosed, note);
    }
    Ok(())
}

/// What a measurement needs to know about a database.
fn size_wanted(database: &Database) -> Option<Wanted> {
    let status = database.status.as_ref()?;
    Some(Wanted {
        desired: None,
        database: status.database_name.clone()?,
        storage: storage_of(database),
        reported: status.size_bytes,
        level: Level::read(&status.conditions),
    })
}

/// The storage of a database in bytes.
pub fn storage_of(database: &Database) -> i64 {
    database.spec.storage.bytes().unwrap_or_default()
}
