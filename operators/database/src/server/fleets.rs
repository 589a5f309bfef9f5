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
mod tests {
    use super::*;
    use ahoi_api::{PgBouncerSpec, PgBouncerStatus, ProcessStatus};
    use ahoi_reconcile::testing::cache;

    fn fleet(held: &[(&str, HoldState)]) -> PgBouncer {
        let held =
            held.iter().map(|(server, state)| HeldServer { server: (*server).into(), state: *state, request: None });
        let process = ProcessStatus { pod: "global-0".into(), held: held.collect(), ..ProcessStatus::default() };
        let mut fleet = PgBouncer::new("global", PgBouncerSpec::default());
        fleet.metadata.namespace = Some("ahoi-system".into());
        fleet.status = Some(PgBouncerStatus { processes: vec![process], ..PgBouncerStatus::default() });
        fleet
    }

    #[test]
    fn one_agent_reports_an_outage() {
        let fleets = cache([fleet(&[("pg-1", HoldState::Unreachable), ("pg-2", HoldState::Quiet)])]);
        assert!(is_unreachable(&fleets, "pg-1"));
        assert!(!is_unreachable(&fleets, "pg-2"));
    }

    #[test]
    fn each_change_triggers_once() {
        let fleets = cache([fleet(&[("pg-1", HoldState::Unreachable)])]);
        let changes = servers_of_fleet(&fleets);
        let triggered = || changes(&fleet(&[])).into_iter().map(|server| server.name).collect::<Vec<_>>();
        assert_eq!(triggered(), ["pg-1"]);
        assert_eq!(triggered(), Vec::<String>::new(), "no change");
        // A deleted fleet is a change as well.
        let none = cache([]);
        let changes = servers_of_fleet(&none);
        assert_eq!(changes(&fleet(&[("pg-1", HoldState::Quiet)])), []);
    }
}
