//! Planned maintenance: when clients are held, when an administrator may restart PostgreSQL, and when clients are served again. Pure.
//!
//! The agents of PgBouncer fleets read the status, hold clients, and report when they are quiet. A restart of PostgreSQL shows in the
//! time at which it was started. Databases are not concerned: their server stays Ready.

use ahoi_api::{
    DatabaseServer, DatabaseServerStatus, HoldState, Maintenance, MaintenanceState, MaintenanceStatus, PgBouncer,
    READY_TO_RESTART,
};
use ahoi_reconcile::conditions::{self, ConditionStatus, DesiredCondition};
use ahoi_reconcile::{EventType, Verdict};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;

use crate::postgres::server::Probe;

/// Whether a maintenance must begin, continue or end.
pub fn concerns(server: &DatabaseServer) -> bool {
    let status = server.status.as_ref().and_then(|status| status.maintenance.as_ref());
    match (&server.spec.maintenance, status) {
        (None, status) => status.is_some(),
        (Some(request), Some(status)) => request.request != status.request || status.state.is_underway(),
        (Some(_), None) => true,
    }
}

/// The next state of the maintenance. `probe` is none while the server is unreachable, and `busy` names the processes that are not
/// quiet.
pub fn next(
    request: Option<&Maintenance>,
    status: Option<&MaintenanceStatus>,
    probe: Option<&Probe>,
    busy: &[String],
    now: Timestamp,
) -> Option<MaintenanceStatus> {
    let request = request?;
    let known =
        status.filter(|status| status.request == request.request || (probe.is_none() && status.state.is_underway()));
    let Some(status) = known else { return probe.map(|probe| begin(request, probe, now)) };
    let mut status = status.clone();
    if status.state.is_underway() {
        let restarted = probe.is_some_and(|probe| probe.started != status.server_started);
        if restarted {
            status.state = MaintenanceState::Done;
        } else if now >= status.until.0 {
            status.state = MaintenanceState::TimedOut;
        } else if let (MaintenanceState::Pausing, true, Some(probe)) = (status.state, busy.is_empty(), probe) {
            status.state = MaintenanceState::ReadyToRestart;
            status.direct_sessions = Some(probe.direct_sessions);
        }
    }
    Some(status)
}

fn begin(request: &Maintenance, probe: &Probe, now: Timestamp) -> MaintenanceStatus {
    let until = now.as_second() + i64::from(request.timeout_seconds);
    MaintenanceStatus {
        request: request.request.clone(),
        state: MaintenanceState::Pausing,
        // Whole seconds, as the API server stores them.
        until: Time(Timestamp::from_second(until).unwrap_or(now)),
        server_started: probe.started.clone(),
        direct_sessions: None,
    }
}

/// The processes that serve clients and are not quiet for this request.
pub fn busy<'a>(fleets: impl IntoIterator<Item = &'a PgBouncer>, server: &str, request: &str) -> Vec<String> {
    let mut busy = Vec::new();
    for fleet in fleets {
        let Some(status) = &fleet.status else { continue };
        let quiet = |pod: &String| {
            let process = status.processes.iter().find(|process| process.pod == *pod);
            process.is_some_and(|process| {
                process.held.iter().any(|held| {
                    let this = held.server == server && held.request.as_deref() == Some(request);
                    this && held.state == HoldState::Quiet
                })
            })
        };
        let pods = status.serving.iter().filter(|pod| !quiet(pod));
        busy.extend(pods.map(|pod| format!("{}/{pod}", fleet.namespace().unwrap_or_default())));
    }
    busy.sort_unstable();
    busy
}

/// Sets the conditions.
pub fn set_conditions(status: &mut DatabaseServerStatus, generation: Option<i64>, busy: &[String]) {
    let Some(maintenance) = &status.maintenance else {
        conditions::remove(&mut status.conditions, READY_TO_RESTART);
        return;
    };
    let request = &maintenance.request;
    let (is, reason, message) = match maintenance.state {
        MaintenanceState::Pausing => {
            (ConditionStatus::False, "Pausing", format!("Pausing for maintenance {request}: {}", waiting_for(busy)))
        }
        MaintenanceState::ReadyToRestart => {
            let cut = match maintenance.direct_sessions {
                None | Some(0) => String::new(),
                Some(1) => "; 1 session that does not come through a pooler will be ended".to_owned(),
                Some(count) => format!("; {count} sessions that do not come through a pooler will be ended"),
            };
            let message = format!("Ready to restart: restart PostgreSQL now for maintenance {request}{cut}");
            (ConditionStatus::True, READY_TO_RESTART, message)
        }
        MaintenanceState::Done => {
            (ConditionStatus::False, "Done", format!("PostgreSQL was restarted for maintenance {request}"))
        }
        MaintenanceState::TimedOut => (
            ConditionStatus::False,
            "TimedOut",
            format!(
                "PostgreSQL was not restarted in time for maintenance {request}; clients are served again. Set \
                 spec.maintenance.request to another value to retry"
            ),
        ),
    };
    if maintenance.state.is_underway() {
        // Ready meanwhile: otherwise each Database would write that its server is unreachable.
        conditions::set_verdict(&mut status.conditions, generation, Verdict::ready(&message));
    }
    let desired = DesiredCondition::new(READY_TO_RESTART, is, reason, message).observed_generation(generation);
    let _ = conditions::set(&mut status.conditions, desired);
}

fn waiting_for(busy: &[String]) -> String {
    /// Maximum number of processes that are named.
    const NAMED: usize = 5;
    match busy.len() {
        0 => "the poolers are quiet".to_owned(),
        count if count > NAMED => format!("waiting until {count} pooler processes have no transaction"),
        _ => format!("waiting until {} have no transaction", busy.join(", ")),
    }
}

/// The event at the end of a maintenance.
pub fn event(before: Option<&MaintenanceStatus>, now: Option<&MaintenanceStatus>) -> Option<(EventType, &'static str)> {
    let was_underway = before.is_some_and(|before| before.state.is_underway());
    match now?.state {
        MaintenanceState::Done if was_underway => Some((EventType::Normal, "Restarted")),
        MaintenanceState::TimedOut if was_underway => Some((EventType::Warning, "MaintenanceTimedOut")),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
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
        assert_eq!(event(Some(&ready), Some(&done)).map(|(_, reason)| reason), Some("Restarted"));
        assert!(event(Some(&done), Some(&done)).is_none());
    }
}
