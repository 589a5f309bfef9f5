//! A server that is unreachable says so itself at first. When that lasts, its Databases say so, too: a few in a second, and in
//! the same way back again, so that a thousand customers are no storm.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use ahoi_api::{Database, DatabaseServer};
use ahoi_reconcile::conditions::{READY, find};
use ahoi_reconcile::{ObjectRef, age, is_ready};
use jiff::Timestamp;
use kube::ResourceExt;
use parking_lot::Mutex;
use tokio::task::JoinHandle;
use tokio::time::{Instant, interval_at};

use crate::context::Context;
use crate::postgres::server::SERVER_UNREACHABLE;
use crate::server::UNREACHABLE;

/// How long an outage is reported by the server alone.
pub const GRACE_PERIOD: Duration = Duration::from_secs(60);
/// Until then the status of the server is written, which its Databases read.
const START: Duration = Duration::from_secs(1);
/// Between two Databases of a server that are woken.
const PACE: Duration = Duration::from_millis(100);

/// The Databases that are being woken, by their server.
#[derive(Default)]
pub struct Outages(Mutex<HashMap<String, JoinHandle<()>>>);

impl Outages {
    /// Wakes these Databases of a server one after the other, unless others of it are being woken: the server is reconciled
    /// again, and what is left is woken then.
    pub fn wake(&self, server: &str, context: &Arc<Context>, databases: Vec<ObjectRef<Database>>) {
        let mut running = self.0.lock();
        running.retain(|_, task| !task.is_finished());
        if databases.is_empty() || running.contains_key(server) {
            return;
        }
        let context = context.clone();
        let task = tokio::spawn(async move {
            let mut pace = interval_at(Instant::now() + START, PACE);
            for database in databases {
                pace.tick().await;
                context.trigger.request(&database);
            }
        });
        running.insert(server.to_owned(), task);
    }
}

/// Whether a server has been unreachable for so long that its Databases report it.
pub fn is_long(server: &DatabaseServer, now: Timestamp) -> bool {
    let ready = server.status.as_ref().and_then(|status| find(&status.conditions, READY));
    let unreachable = ready.filter(|ready| ready.status == "False" && ready.reason == UNREACHABLE);
    unreachable.is_some_and(|ready| age(&ready.last_transition_time, now) >= GRACE_PERIOD)
}

/// Whether a Database says that its server cannot be reached.
pub fn is_reported(database: &Database) -> bool {
    let ready = database.status.as_ref().and_then(|status| find(&status.conditions, READY));
    ready.is_some_and(|ready| ready.status == "False" && ready.reason == SERVER_UNREACHABLE)
}

/// Those Databases of a server whose status says something else of it than is so.
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
    use crate::context::tests::server;

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
        let away = settled(server("pg-1"), Verdict::stalled(UNREACHABLE, "away"));
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
        assert_eq!(names(&away, 58), Vec::<String>::new(), "the server says so itself");
        assert_eq!(names(&away, 62), ["fine"]);
        assert_eq!(names(&refusing, 62), Vec::<String>::new(), "customers are served");
        assert_eq!(names(&ready(server("pg-1")), 0), ["reported"]);
    }
}
