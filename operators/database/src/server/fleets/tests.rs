use super::*;
use ahoi_api::{PgBouncerSpec, PgBouncerStatus, ProcessStatus};
use ahoi_reconcile::testing::cache;

fn fleet(held: &[(&str, HoldState)]) -> PgBouncer {
    let held = held.iter().map(|(server, state)| HeldServer { server: (*server).into(), state: *state, request: None });
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
