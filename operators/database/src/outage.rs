//! Whether a server is usable, and who reports an outage: at first the DatabaseServer alone, and its Databases when the outage lasts.
//! Their statuses are written at a limited rate, so that a thousand customers do not flood the API server.

use std::collections::HashMap;
use std::time::Duration;

use ahoi_api::{Database, DatabaseServer, Reason};
use ahoi_reconcile::conditions::{READY, find, is_true};
use ahoi_reconcile::{ObjectRef, age, is_ready};
use jiff::Timestamp;
use kube::ResourceExt;
use parking_lot::Mutex;
use tokio::task::JoinHandle;
use tokio::time::{Instant, interval_at};

/// How long only the server reports an outage.
const GRACE_PERIOD: Duration = Duration::from_secs(60);
/// Delay until the status of the server is written, which its Databases read.
const START_DELAY: Duration = Duration::from_secs(1);
/// Delay between two Databases of a server.
const TRIGGER_INTERVAL: Duration = Duration::from_millis(100);

/// The tasks that trigger Databases, by server.
#[derive(Default)]
pub struct Outages(Mutex<HashMap<String, JoinHandle<()>>>);

impl Outages {
    /// Triggers these Databases of a server one after the other, unless a task for the server is running: the next reconcile of the
    /// server triggers the rest.
    pub fn trigger(
        &self,
        server: &str,
        databases: Vec<ObjectRef<Database>>,
        trigger: impl Fn(&ObjectRef<Database>) + Send + 'static,
    ) {
        let mut running = self.0.lock();
        running.retain(|_, task| !task.is_finished());
        if databases.is_empty() || running.contains_key(server) {
            return;
        }
        let task = tokio::spawn(async move {
            let mut interval = interval_at(Instant::now() + START_DELAY, TRIGGER_INTERVAL);
            for database in databases {
                interval.tick().await;
                trigger(&database);
            }
        });
        running.insert(server.to_owned(), task);
    }
}

/// Whether a server was Ready at its last reconcile. A newer spec does not make a working server unusable.
pub fn is_usable(server: &DatabaseServer) -> bool {
    server.status.as_ref().is_some_and(|status| is_true(&status.conditions, READY))
}

/// The reason of the server's condition Ready.
pub fn ready_reason(server: &DatabaseServer) -> Option<Reason> {
    find(&server.status.as_ref()?.conditions, READY).and_then(|ready| Reason::parse(&ready.reason))
}

/// Whether a server has been unreachable for so long that its Databases report it.
pub fn is_long(server: &DatabaseServer, now: Timestamp) -> bool {
    let ready = server.status.as_ref().and_then(|status| find(&status.conditions, READY));
    let unreachable =
        ready.filter(|ready| ready.status == "False" && ready.reason == Reason::DatabaseServerUnreachable);
    unreachable.is_some_and(|ready| age(&ready.last_transition_time, now) >= GRACE_PERIOD)
}

/// Whether a Database reports that its server is unreachable.
pub fn is_reported(database: &Database) -> bool {
    let ready = database.status.as_ref().and_then(|status| find(&status.conditions, READY));
    ready.is_some_and(|ready| ready.status == "False" && ready.reason == Reason::DatabaseServerUnreachable)
}

/// The Databases of a server that do not report its present state.
pub fn outdated<'a>(
    server: &DatabaseServer,
    placed: impl IntoIterator<Item = &'a Database>,
    now: Timestamp,
) -> Vec<ObjectRef<Database>> {
    let (is_up, is_down) = (is_ready(server), is_long(server, now));
    let differs = |database: &&Database| is_up && is_reported(database) || is_down && is_ready(*database);
    let here = |database: &&Database| {
        database.status.as_ref().and_then(|status| status.server.as_deref()) == Some(&server.name_any())
    };
    placed.into_iter().filter(here).filter(differs).map(ObjectRef::from_obj).collect()
}

#[cfg(test)]
mod tests;
