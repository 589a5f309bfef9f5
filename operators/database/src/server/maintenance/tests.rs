use super::*;
use ahoi_api::{HeldServer, PgBouncerSpec, PgBouncerStatus, ProcessStatus};

use crate::testing::server;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn request(request: &str) -> Maintenance {
    Maintenance { request: request.into(), timeout_seconds: 55 }
}

fn probe(started: &str) -> Probe {
    Probe { started: started.into(), direct_sessions: 3 }
}

fn status(state: MaintenanceState) -> MaintenanceStatus {
    MaintenanceStatus {
        request: "r".into(),
        state,
        until: Time(at(155)),
        server_started: "before".into(),
        direct_sessions: None,
    }
}

fn state(status: &Option<MaintenanceStatus>) -> Option<MaintenanceState> {
    status.as_ref().map(|status| status.state)
}

#[test]
fn from_the_request_to_the_restart() {
    let (request, before) = (request("r"), probe("before"));
    let pausing = next(Some(&request), None, Some(&before), &[], at(100));
    assert_eq!(pausing, Some(status(MaintenanceState::Pausing)));
    let still = next(Some(&request), pausing.as_ref(), Some(&before), &["global-0".into()], at(101));
    assert_eq!(still, pausing);
    let ready = next(Some(&request), pausing.as_ref(), Some(&before), &[], at(102));
    assert_eq!(state(&ready), Some(MaintenanceState::ReadyToRestart));
    assert_eq!(ready.as_ref().unwrap().direct_sessions, Some(3));
    // A process that starts meanwhile holds clients as well. Nor does an unreachable server change the state.
    assert_eq!(next(Some(&request), ready.as_ref(), None, &["global-0".into()], at(110)), ready);
    let done = next(Some(&request), ready.as_ref(), Some(&probe("later")), &[], at(120));
    assert_eq!(state(&done), Some(MaintenanceState::Done));
    assert_eq!(next(Some(&request), done.as_ref(), None, &[], at(999)), done);
}

#[test]
fn a_maintenance_ends_without_a_restart() {
    let (request, before) = (request("r"), probe("before"));
    for underway in [status(MaintenanceState::Pausing), status(MaintenanceState::ReadyToRestart)] {
        for probe in [None, Some(&before)] {
            let over = next(Some(&request), Some(&underway), probe, &[], at(155));
            assert_eq!(state(&over), Some(MaintenanceState::TimedOut));
        }
        assert_eq!(next(None, Some(&underway), None, &[], at(101)), None, "the request was removed");
    }
    // A restart counts even before the processes are quiet, or after the timeout.
    let early = next(Some(&request), Some(&status(MaintenanceState::Pausing)), Some(&probe("x")), &[], at(160));
    assert_eq!(state(&early), Some(MaintenanceState::Done));
}

#[test]
fn another_request_begins_a_maintenance() {
    let done = status(MaintenanceState::Done);
    let again = next(Some(&request("s")), Some(&done), Some(&probe("later")), &[], at(300)).unwrap();
    assert_eq!((again.request.as_str(), again.state), ("s", MaintenanceState::Pausing));
    assert_eq!(again.server_started, "later");
    assert_eq!(next(Some(&request("s")), Some(&done), None, &[], at(300)), None, "not while it is unreachable");
}

#[test]
fn maintenance_concerns_no_server_at_rest() {
    let mut server = server("pg-1");
    assert!(!concerns(&server));
    server.spec.maintenance = Some(request("r"));
    assert!(concerns(&server));
    let with = |state| {
        let maintenance = Some(status(state));
        let mut server = server.clone();
        server.status = Some(DatabaseServerStatus { maintenance, ..DatabaseServerStatus::default() });
        server
    };
    assert!(concerns(&with(MaintenanceState::ReadyToRestart)));
    let done = with(MaintenanceState::Done);
    assert!(!concerns(&done));
    let withdrawn = DatabaseServer { spec: crate::testing::server("pg-1").spec, ..done };
    assert!(concerns(&withdrawn));
}

#[test]
fn every_serving_process_must_be_quiet() {
    let process = |pod: &str, server: &str, state, request: &str| ProcessStatus {
        pod: pod.into(),
        held: vec![HeldServer { server: server.into(), state, request: Some(request.into()) }],
        ..ProcessStatus::default()
    };
    let mut fleet = PgBouncer::new("global", PgBouncerSpec::default());
    fleet.metadata.namespace = Some("ahoi-system".into());
    fleet.status = Some(PgBouncerStatus {
        serving: ["g-0", "g-1", "g-2", "g-3", "g-4"].map(Into::into).into(),
        processes: vec![
            process("g-0", "pg-1", HoldState::Quiet, "r"),
            process("g-1", "pg-1", HoldState::Pausing, "r"),
            process("g-2", "pg-2", HoldState::Quiet, "r"),
            process("g-3", "pg-1", HoldState::Quiet, "former"),
            process("g-9", "pg-1", HoldState::Pausing, "r"),
        ],
        ..PgBouncerStatus::default()
    });
    let names = ["g-1", "g-2", "g-3", "g-4"].map(|pod| format!("ahoi-system/{pod}"));
    assert_eq!(busy([&fleet], "pg-1", "r"), names);
    assert_eq!(busy([], "pg-1", "r"), Vec::<String>::new());
}

#[test]
fn conditions_explain_the_state() {
    let conditions_of = |state, direct_sessions, busy: &[String]| {
        let maintenance = Some(MaintenanceStatus { direct_sessions, ..status(state) });
        let mut now = DatabaseServerStatus { maintenance, ..DatabaseServerStatus::default() };
        set_conditions(&mut now, Some(1), busy);
        let conditions = now.conditions.iter();
        let line = |c: &conditions::Condition| format!("{}={} {}: {}", c.type_, c.status, c.reason, c.message);
        conditions.map(line).collect::<Vec<_>>().join("\n")
    };
    insta::assert_snapshot!(
        [
            conditions_of(MaintenanceState::Pausing, None, &["ahoi-system/global-0".into()]),
            conditions_of(MaintenanceState::ReadyToRestart, Some(0), &[]),
            conditions_of(MaintenanceState::ReadyToRestart, Some(2), &[]),
            conditions_of(MaintenanceState::Done, Some(2), &[]),
            conditions_of(MaintenanceState::TimedOut, None, &[]),
        ]
        .join("\n\n")
    );
    let mut withdrawn =
        DatabaseServerStatus { maintenance: Some(status(MaintenanceState::Pausing)), ..Default::default() };
    set_conditions(&mut withdrawn, Some(1), &[]);
    withdrawn.maintenance = None;
    set_conditions(&mut withdrawn, Some(1), &[]);
    assert!(conditions::find(&withdrawn.conditions, READY_TO_RESTART).is_none());
}

#[test]
fn only_the_end_is_an_event() {
    let (ready, done) = (status(MaintenanceState::ReadyToRestart), status(MaintenanceState::Done));
    assert!(event(None, Some(&ready)).is_none());
    assert_eq!(event(Some(&ready), Some(&done)).map(|(_, reason)| reason), Some(EventReason::Restarted));
    assert!(event(Some(&done), Some(&done)).is_none());
}
