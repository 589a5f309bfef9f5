//! What the agents of PgBouncer fleets report about servers. They are always connected to them, and notice an outage first.

use std::collections::{BTreeSet, HashMap};

use ahoi_api::{DatabaseServer, HeldServer, HoldState, PgBouncer};
use ahoi_reconcile::{Cache, ObjectRef};
use kube::ResourceExt;
use parking_lot::Mutex;

/// The DatabaseServers about which an agent reports a change.
pub fn servers_of_fleet(
    fleets: &Cache<PgBouncer>,
) -> impl Fn(&PgBouncer) -> Vec<ObjectRef<DatabaseServer>> + Send + Sync + 'static {
    let fleets = fleets.clone();
    let known: Mutex<HashMap<String, BTreeSet<(String, HeldServer)>>> = Mutex::default();
    move |fleet| {
        let (namespace, name) = (fleet.namespace().unwrap_or_default(), fleet.name_any());
        let reported = fleets.get_in(&namespace, &name).map(|fleet| held(&fleet)).unwrap_or_default();
        let before = known.lock().insert(format!("{namespace}/{name}"), reported.clone()).unwrap_or_default();
        let news: BTreeSet<&str> =
            reported.symmetric_difference(&before).map(|(_, held)| held.server.as_str()).collect();
        news.into_iter().map(ObjectRef::new).collect()
    }
}

fn held(fleet: &PgBouncer) -> BTreeSet<(String, HeldServer)> {
    let processes = fleet.status.iter().flat_map(|status| &status.processes);
    processes.flat_map(|process| process.held.iter().map(|held| (process.pod.clone(), held.clone()))).collect()
}

/// Whether an agent reports that the server is unreachable.
pub fn is_unreachable(fleets: &Cache<PgBouncer>, server: &str) -> bool {
    let unreachable = |held: &HeldServer| held.server == server && held.state == HoldState::Unreachable;
    fleets.all().iter().any(|fleet| held(fleet).iter().any(|(_, held)| unreachable(held)))
}

#[cfg(test)]
mod tests;
