//! Where a database is: chosen or found once, written down before anything is made there, and looked for again where a status was
//! restored from a backup.

use std::sync::Arc;
use std::time::Duration;

use ahoi_api::{Database, DatabaseServer, DatabaseStatus};
use ahoi_reconcile::{Error, Progress, Verdict, conditions};
use kube::ResourceExt;

use super::{Databases, adopt};
use crate::context::is_usable;
use crate::placement::{Candidate, Need};
use crate::postgres::names::Names;

impl Databases {
    /// The object with its place in its status: chosen once, and written down before anything is made there.
    pub(super) async fn placed(&self, database: &Database, storage: i64) -> Result<Arc<Database>, Error> {
        let context = &self.0;
        let mut status = database.status.clone().unwrap_or_default();
        if status.server.is_some() && status.database_name.is_some() {
            return Ok(Arc::new(database.clone()));
        }
        match adopt::find(context, database).await? {
            Some(found) => self.adopt(database, status, &found).await,
            None => {
                let server = self.choose(database, storage)?;
                let names = Names::from_uid(&database.uid().unwrap_or_default());
                place(&mut status, database, server, names);
                context.platform.write_status(&context.caches.databases, database, &status).await
            }
        }
    }

    async fn adopt(
        &self,
        database: &Database,
        mut status: DatabaseStatus,
        found: &adopt::Found,
    ) -> Result<Arc<Database>, Error> {
        let context = &self.0;
        place(&mut status, database, found.server.clone(), found.names.clone());
        status.adopted = Some(found.data.clone());
        let placed = context.platform.write_status(&context.caches.databases, database, &status).await?;
        adopt::report(context, database, found);
        Ok(placed)
    }

    /// The status names a database of another object. It may have been restored from a backup, of this cluster or of one that does
    /// not exist any more: the data of the Database is then looked for as if there was no status. Where there is none, nothing is
    /// placed anew: an empty database would hide what happened.
    pub(super) async fn place_again(
        &self,
        database: &Database,
        error: Error,
    ) -> Result<Progress<DatabaseStatus>, Error> {
        let databases = &self.0.caches.databases;
        let now = databases.get_in(&database.namespace().unwrap_or_default(), &database.name_any());
        let Some(now) = now.filter(|now| now.metadata.uid == database.metadata.uid) else { return Err(error) };
        let Some(found) = adopt::find(&self.0, &now).await? else { return Err(error) };
        let mut status = now.status.clone().unwrap_or_default();
        if status.database_name.as_ref() != Some(&found.names.database) {
            // What else it says is about the other database, too.
            status = DatabaseStatus { conditions: status.conditions, ..DatabaseStatus::default() };
        }
        let placed = self.adopt(&now, status, &found).await?;
        Ok(Progress::new(placed.status.clone().unwrap_or_default()).requeue_in(Duration::ZERO))
    }

    fn choose(&self, database: &Database, storage: i64) -> Result<String, Error> {
        let context = &self.0;
        let need = Need { selector: &database.spec.server_selector, bytes: storage };
        let all = context.caches.databases.all();
        let server_of = |other: &Database| other.status.as_ref().and_then(|status| status.server.clone());
        let candidates = || {
            let servers = context.caches.servers.all();
            let candidate = |server: &Arc<DatabaseServer>| {
                let mut candidate = candidate(server);
                // What is kept for objects that are gone takes a place, too.
                let pool = context.pool(server).ok();
                let unclaimed = pool.map_or(0, |pool| pool.memory.lock().unclaimed.len());
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
}

/// Writes down where the database is. The login stays that of a status that names this database.
fn place(status: &mut DatabaseStatus, database: &Database, server: String, names: Names) {
    let message = format!("making database {} on DatabaseServer {server}", names.database);
    conditions::set_verdict(
        &mut status.conditions,
        database.metadata.generation,
        Verdict::progressing("Creating", message),
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
        // A size that cannot be read is no promise that can be kept.
        capacity: server.spec.capacity.as_ref().map(|capacity| capacity.bytes().unwrap_or_default()),
        ..Candidate::default()
    }
}
