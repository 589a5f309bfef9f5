//! Whether a server is usable, and who reports an outage: at first the DatabaseServer alone, and its Databases when the outage lasts.
//! Their statuses are written at a limited rate, so that a thousand customers do not flood the API server.

use std::collections::HashMap;
use std::time::Duration;

use ahoi_api::{Database, DatabaseServer};
use ahoi_reconcile::conditions::{READY, find};
use ahoi_reconcile::{ObjectRef, age, is_ready};
use jiff::Timestamp;
use kube::ResourceExt;
use parking_lot::Mutex;
use tokio::task::JoinHandle;
use tokio::time::{Instant, interval_at};

use crate::postgres::failure::SERVER_UNREACHABLE;

/// Reason of a DatabaseServer that is unreachable.
pub const UNREACHABLE: &str = "DatabaseServerUnreachable";
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
    let conditions = server.status.iter().flat_map(|status| &status.conditions);
    conditions.into_iter().any(|condition| condition.type_ == READY && condition.status == "True")
}

/// The reason of the server's condition Ready.
pub fn ready_reason(server: &DatabaseServer) -> Option<&str> {
    find(&server.status.as_ref()?.conditions, READY).map(|ready| ready.reason.as_str())
}

/// Whether a server has been unreachable for so long that its Databases report it.
pub fn is_long(server: &DatabaseServer, now: Timestamp) -> bool {
    let ready = server.status.as_ref().and_then(|status| find(&status.conditions, READY));
    let unreachable = ready.filter(|ready| ready.status == "False" && ready.reason == UNREACHABLE);
    unreachable.is_some_and(|ready| age(&ready.last_transition_time, now) >= GRACE_PERIOD)
}

/// Whether a Database reports that its server is unreachable.
pub fn is_reported(database: &Database) -> bool {
    let ready = database.status.as_ref().and_then(|status| find(&status.conditions, READY));
    ready.is_some_and(|ready| ready.status == "False" && ready.reason == SERVER_UNREACHABLE)
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
mod tests {
    use ahoi_reconcile::Verdict;
    use ahoi_reconcile::testing::{ready, settled};

    use super::*;
    use crate::testing::server;

    fn database(name: &str, on: &str) -> Database {
        serde_saphyr::from_str(&format!(
            "
            apiVersion: internal.example.com/v1
            kind: Database
            metadata: {{name: {name}, namespace: customer-{name}, uid: {name}, generation: 1}}
            spec: {{storage: 1gb}}
            status: {{server: {on}, databaseName: c_3f2504e04f89}}
            "
        ))
        .unwrap()
    }

    fn after(seconds: i64) -> Timestamp {
        Timestamp::now() + jiff::SignedDuration::from_secs(seconds)
    }

    #[test]
    fn databases_report_an_outage_that_lasts_and_its_end() {
        let down = settled(server("pg-1"), Verdict::stalled(UNREACHABLE, "unreachable"));
        let refusing = settled(server("pg-1"), Verdict::stalled("LoginRefused", "no"));
        let unready = |name: &str, reason: &str| settled(database(name, "pg-1"), Verdict::progressing(reason, "…"));
        let all = [
            ready(database("fine", "pg-1")),
            ready(database("elsewhere", "pg-2")),
            unready("reported", SERVER_UNREACHABLE),
            unready("another", "Creating"),
        ];
        let names = |server: &DatabaseServer, seconds| {
            let found = outdated(server, &all, after(seconds));
            found.into_iter().map(|database| database.name).collect::<Vec<_>>()
        };
        assert_eq!(names(&down, 58), Vec::<String>::new(), "only the server reports it");
        assert_eq!(names(&down, 62), ["fine"]);
        assert_eq!(names(&refusing, 62), Vec::<String>::new(), "customers are served");
        assert_eq!(names(&ready(server("pg-1")), 0), ["reported"]);
    }
}
