//! The server of a database: found or chosen once, recorded before anything is created there, and searched again if the status was
//! restored from a backup.

use std::sync::Arc;
use std::time::Duration;

use ahoi_api::{Database, DatabaseServer, DatabaseStatus, Reason};
use ahoi_reconcile::{Error, Progress, Verdict, conditions};
use kube::ResourceExt;

use super::adopt;
use super::references::Validated;
use crate::context::Context;
use crate::outage::is_usable;
use crate::placement::{Candidate, Need};
use crate::postgres::names::Names;

/// The Database with its server and the name of its database in the status.
pub async fn place(context: &Context, database: &Database, valid: Validated) -> Result<Arc<Database>, Error> {
    let mut status = database.status.clone().unwrap_or_default();
    if status.server.is_some() && status.database_name.is_some() {
        return Ok(Arc::new(database.clone()));
    }
    match adopt::find(context, database).await? {
        Some(found) => adopt_found(context, database, status, &found).await,
        None => {
            let server = choose(context, database, valid.storage)?;
            let names = Names::from_uid(&database.uid().unwrap_or_default());
            assign(&mut status, database, server, names);
            context.platform.write_status(&context.caches.databases, database, &status).await
        }
    }
}

async fn adopt_found(
    context: &Context,
    database: &Database,
    mut status: DatabaseStatus,
    found: &adopt::Found,
) -> Result<Arc<Database>, Error> {
    assign(&mut status, database, found.server.clone(), found.names.clone());
    status.adopted = Some(found.data.clone());
    let placed = context.platform.write_status(&context.caches.databases, database, &status).await?;
    adopt::record_event(context, database, found);
    Ok(placed)
}

/// Searches the data of a Database whose status names a database of another object. Such a status was restored from a backup, of
/// this cluster or of one that does not exist any more. If there is no data, the error stays: an empty database would hide it.
pub async fn place_again(
    context: &Context,
    database: &Database,
    error: Error,
) -> Result<Progress<DatabaseStatus>, Error> {
    let databases = &context.caches.databases;
    let now = databases.get_in(&database.namespace().unwrap_or_default(), &database.name_any());
    let Some(now) = now.filter(|now| now.metadata.uid == database.metadata.uid) else { return Err(error) };
    let Some(found) = adopt::find(context, &now).await? else { return Err(error) };
    let mut status = now.status.clone().unwrap_or_default();
    if status.database_name.as_ref() != Some(&found.names.database) {
        // The rest of the status is about the other database as well.
        status = DatabaseStatus { conditions: status.conditions, ..DatabaseStatus::default() };
    }
    let placed = adopt_found(context, &now, status, &found).await?;
    Ok(Progress::new(placed.status.clone().unwrap_or_default()).requeue_in(Duration::ZERO))
}

fn choose(context: &Context, database: &Database, storage: i64) -> Result<String, Error> {
    let need = Need { selector: &database.spec.server_selector, bytes: storage };
    let all = context.caches.databases.all();
    let server_of = |other: &Database| other.status.as_ref().and_then(|status| status.server.clone());
    let candidates = || {
        let servers = context.caches.servers.all();
        let candidate = |server: &Arc<DatabaseServer>| {
            let mut candidate = candidate(server);
            // Data that is kept for deleted objects counts as well.
            let instance = context.instance(server).ok();
            let unclaimed = instance.map_or(0, |instance| instance.memory.lock().unclaimed.len());
            candidate.databases = i64::try_from(unclaimed).unwrap_or(i64::MAX);
            for other in all.iter().filter(|other| server_of(other).as_deref() == Some(&candidate.name)) {
                candidate.databases += 1;
                let bytes = other.spec.storage.bytes().unwrap_or_default();
                candidate.allocated = candidate.allocated.saturating_add(bytes);
            }
            candidate
        };
        servers.iter().map(candidate).collect()
    };
    let is_pending =
        |uid: &str| all.iter().any(|other| other.uid().as_deref() == Some(uid) && server_of(other).is_none());
    context.placements.choose(&database.uid().unwrap_or_default(), &need, candidates, is_pending)
}

/// Records the server and the names. A status that names this database keeps its login.
fn assign(status: &mut DatabaseStatus, database: &Database, server: String, names: Names) {
    let message = format!("creating database {} on DatabaseServer {server}", names.database);
    conditions::set_verdict(
        &mut status.conditions,
        database.metadata.generation,
        Verdict::progressing(Reason::Creating, message),
    );
    let is_known = status.database_name.as_ref() == Some(&names.database);
    status.login = status.login.take().filter(|_| is_known).or(Some(names.login));
    status.server = Some(server);
    status.database_name = Some(names.database);
}

fn candidate(server: &DatabaseServer) -> Candidate {
    Candidate {
        name: server.name_any(),
        labels: server.labels().clone(),
        placement: server.spec.placement,
        ready: is_usable(server),
        max_databases: server.spec.max_databases.map(i64::from),
        // A capacity that cannot be parsed counts as none.
        capacity: server.spec.max_storage.as_ref().map(|storage| storage.bytes().unwrap_or_default()),
        ..Candidate::default()
    }
}
