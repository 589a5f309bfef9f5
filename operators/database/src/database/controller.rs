//! The reconcile of a Database, and which errors its DatabaseServer reports instead.

use std::sync::Arc;
use std::time::Duration;

use ahoi_api::{ConnectionPool, Database, DatabaseStatus, Reason, finalizers};
use ahoi_reconcile::{Controller, Error, ObjectRef, Platform, Progress, Reconciler, Verdict, conditions, is_ready};
use jiff::Timestamp;
use kube::ResourceExt;

use super::apply::apply;
use super::cleanup;
use super::desired::desired;
use super::observe::observe;
use super::place::{place, place_again};
use super::references::{dereference, validate};
use super::status::status;
use crate::caches::Caches;
use crate::context::Context;
use crate::outage::{is_long, is_usable};

/// Delay until a Database that is Ready is reconciled again after an outage of its server; its sweeps come earlier.
const AFTER_OUTAGE: Duration = Duration::from_secs(300);

/// Delay until the name of the binding Secret is checked again, which an object of another owner has: such objects are not watched.
const CONFLICT_RECHECK: Duration = Duration::from_secs(30);

/// The controller of Databases.
pub struct DatabaseController(pub Arc<Context>);

impl DatabaseController {
    /// Which changes trigger a reconcile.
    pub fn watch(platform: &Platform, caches: &Caches) -> Controller<Database> {
        Controller::new(platform, &caches.databases)
            .owns(&caches.bindings)
            .watches(&caches.servers, caches.databases_of_server())
            .watches(&caches.connection_pools, |pool: &ConnectionPool| database_of(pool))
            .watches(&caches.secrets, caches.databases_of_secret())
    }

    /// The reconcile, stage by stage.
    async fn run(&self, database: &Database) -> Result<Progress<DatabaseStatus>, Error> {
        let context = &self.0;
        let valid = validate(database)?;
        let placed = place(context, database, valid).await?;
        let references = dereference(context, placed).await?;
        let observed = observe(context, &references, valid).await?;
        let desired = desired(valid, &references, observed)?;
        let applied = apply(context, &references, &desired).await?;
        Ok(status(&references, &desired, applied))
    }
}

impl Reconciler for DatabaseController {
    type Kind = Database;
    const NAME: &'static str = "database";
    const FINALIZER: Option<&'static str> = Some(finalizers::DATABASE);

    async fn reconcile(&self, database: &Database) -> Result<Progress<DatabaseStatus>, Error> {
        match self.run(database).await {
            // The server reports it once. Otherwise a thousand databases would each write it, and again after the outage. During
            // long outages they do, at the rate at which the controller of servers triggers them.
            Err(error)
                if is_ready(database)
                    && self.server_reports(database, error.reason())
                    && !(error.reason() == Reason::DatabaseServerUnreachable && self.is_long_outage(database)) =>
            {
                Ok(Progress::new(database.status.clone().unwrap_or_default()).requeue_in(AFTER_OUTAGE))
            }
            Err(error) if error.reason() == Reason::NameConflict => {
                let (namespace, generation) = (database.namespace().unwrap_or_default(), database.metadata.generation);
                let now = self.0.caches.databases.get_in(&namespace, &database.name_any());
                let mut status = now.and_then(|now| now.status.clone()).unwrap_or_default();
                conditions::set_verdict(&mut status.conditions, generation, Verdict::from(&error));
                Ok(Progress::new(status).requeue_in(CONFLICT_RECHECK))
            }
            Err(error) if error.reason() == Reason::DatabaseNotOwned => place_again(&self.0, database, error).await,
            outcome => outcome,
        }
    }

    async fn cleanup(&self, database: &Database) -> Result<(), Error> {
        cleanup::cleanup(&self.0, database).await
    }
}

impl DatabaseController {
    /// Whether the DatabaseServer reports this error itself. A Database may find first that its server is unreachable or read-only;
    /// any other error is the server's only while the server is not Ready.
    fn server_reports(&self, database: &Database, reason: &str) -> bool {
        const OF_THE_SERVER: [Reason; 5] = [
            Reason::WaitingForDatabaseServer,
            Reason::LoginRefused,
            Reason::NotTrusted,
            Reason::SecretNotFound,
            Reason::SecretIncomplete,
        ];
        let Some(reason) = Reason::parse(reason) else { return false };
        let name = database.status.as_ref().and_then(|status| status.server.as_deref());
        let server = name.and_then(|name| self.0.caches.servers.get(name));
        [Reason::DatabaseServerUnreachable, Reason::DatabaseServerReadOnly].contains(&reason)
            || OF_THE_SERVER.contains(&reason) && server.is_some_and(|server| !is_usable(&server))
    }

    fn is_long_outage(&self, database: &Database) -> bool {
        let name = database.status.as_ref().and_then(|status| status.server.as_deref());
        let server = name.and_then(|name| self.0.caches.servers.get(name));
        server.is_some_and(|server| is_long(&server, Timestamp::now()))
    }
}

/// The Database whose former login a ConnectionPool does not use any more; other changes of a ConnectionPool do not concern it.
fn database_of(pool: &ConnectionPool) -> Option<ObjectRef<Database>> {
    pool.status.as_ref()?.unused_login.as_ref()?;
    Some(ObjectRef::new(&pool.spec.database_ref.name).within(&pool.namespace()?))
}

#[cfg(test)]
mod tests;
