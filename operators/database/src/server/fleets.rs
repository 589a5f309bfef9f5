//! What the agents beside the poolers say of servers. They are connected to them all the time, and know first.

use std::collections::{BTreeSet, HashMap};

use ahoi_api::{DatabaseServer, HeldServer, HoldState, PgBouncer};
use ahoi_reconcile::{Cache, ObjectRef};
use kube::ResourceExt;
use parking_lot::Mutex;

/// The DatabaseServers that an agent says something new about.
pub fn servers_of_fleet(
    fleets: &Cache<PgBouncer>,
) -> impl Fn(&PgBouncer) -> Vec<ObjectRef<DatabaseServer>> + Send + Sync + 'static {
    let fleets = fleets.clone();
    let known: Mutex<HashMap<String, BTreeSet<(String, HeldServer)>>> = Mutex::default();
    move |fleet| {
        let (namespace, name) = (fleet.namespace().unwrap_or_default(), fleet.name_any());
        let said = fleets.get_in(&namespace, &name).map(|fleet| held(&fleet)).unwrap_or_default();
        let before = known.lock().insert(format!("{namespace}/{name}"), said.clone()).unwrap_or_default();
        let news: BTreeSet<&str> = said.symmetric_difference(&before).map(|(_, held)| held.server.as_str()).collect();
        news.into_iter().map(ObjectRef::new).collect()
    }
}

fn held(fleet: &PgBouncer) -> BTreeSet<(String, HeldServer)> {
    let processes = fleet.status.iter().flat_map(|status| &status.processes);
    processes.flat_map(|process| process.held.iter().map(|held| (process.pod.clone(), held.clone()))).collect()
}

/// Whether an agent says that it cannot reach the server.
pub fn is_away(fleets: &Cache<PgBouncer>, server: &str) -> bool {
    let away = |held: &HeldServer| held.server == server && held.state == HoldState::Unreachable;
    fleets.all().iter().any(|fleet| held(fleet).iter().any(|(_, held)| away(held)))
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
    fn an_agent_that_cannot_reach_it_is_believed() {
        let fleets = cache([fleet(&[("pg-1", HoldState::Unreachable), ("pg-2", HoldState::Quiet)])]);
        assert!(is_away(&fleets, "pg-1"));
        assert!(!is_away(&fleets, "pg-2"));
    }

    #[test]
    fn each_piece_of_news_wakes_once() {
        let fleets = cache([fleet(&[("pg-1", HoldState::Unreachable)])]);
        let news = servers_of_fleet(&fleets);
        let woken = || news(&fleet(&[])).into_iter().map(|server| server.name).collect::<Vec<_>>();
        assert_eq!(woken(), ["pg-1"]);
        assert_eq!(woken(), Vec::<String>::new(), "nothing new");
        // That the fleet has gone is news as well.
        let none = cache([]);
        let news = servers_of_fleet(&none);
        assert_eq!(news(&fleet(&[("pg-1", HoldState::Quiet)])), []);
    }
}
