//! Planned maintenance: when clients of a server wait, when a person may restart PostgreSQL, and when it is over. Pure.
//!
//! The agents beside the poolers read the status, hold the pools, and say when they are quiet; that PostgreSQL was
//! restarted is seen by the time at which it was started. Nothing of it concerns the Databases: their server stays Ready.

use ahoi_api::{
    DatabaseServer, DatabaseServerStatus, HoldState, Maintenance, MaintenanceState, MaintenanceStatus, PgBouncer,
    READY_TO_RESTART,
};
use ahoi_reconcile::conditions::{self, ConditionStatus, DesiredCondition};
use ahoi_reconcile::{EventType, Verdict};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;

/// What a server says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// When it was started.
    pub started: String,
    /// Sessions that are neither a pooler's nor a controller's.
    pub direct_sessions: i64,
}

/// Whether there is anything to begin, to go on with or to end.
pub fn concerns(server: &DatabaseServer) -> bool {
    let status = server.status.as_ref().and_then(|status| status.maintenance.as_ref());
    match (&server.spec.maintenance, status) {
        (None, status) => status.is_some(),
        (Some(wish), Some(status)) => wish.request != status.request || status.state.is_underway(),
        (Some(_), None) => true,
    }
}

/// How far the maintenance is now. `seen` is none while the server cannot be reached, and `busy` names the processes that
/// are not quiet.
pub fn next(
    wish: Option<&Maintenance>,
    status: Option<&MaintenanceStatus>,
    seen: Option<&Seen>,
    busy: &[String],
    now: Timestamp,
) -> Option<MaintenanceStatus> {
    let wish = wish?;
    let known =
        status.filter(|status| status.request == wish.request || (seen.is_none() && status.state.is_underway()));
    let Some(status) = known else { return seen.map(|seen| begin(wish, seen, now)) };
    let mut status = status.clone();
    if status.state.is_underway() {
        let restarted = seen.is_some_and(|seen| seen.started != status.server_started);
        if restarted {
            status.state = MaintenanceState::Done;
        } else if now >= status.until.0 {
            status.state = MaintenanceState::TimedOut;
        } else if let (MaintenanceState::Pausing, true, Some(seen)) = (status.state, busy.is_empty(), seen) {
            status.state = MaintenanceState::ReadyToRestart;
            status.direct_sessions = Some(seen.direct_sessions);
        }
    }
    Some(status)
}

fn begin(wish: &Maintenance, seen: &Seen, now: Timestamp) -> MaintenanceStatus {
    let until = now.as_second() + i64::from(wish.timeout_seconds);
    MaintenanceStatus {
        request: wish.request.clone(),
        state: MaintenanceState::Pausing,
        // Whole seconds, which is what comes back from the API server.
        until: Time(Timestamp::from_second(until).unwrap_or(now)),
        server_started: seen.started.clone(),
        direct_sessions: None,
    }
}

/// The processes that clients are sent to and that are not quiet for this request.
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

/// Says in the conditions how far it is.
pub fn tell(status: &mut DatabaseServerStatus, generation: Option<i64>, busy: &[String]) {
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
                "PostgreSQL was not restarted in time for maintenance {request}, and clients are served again; put another \
                 text into spec.maintenance.request to try again"
            ),
        ),
    };
    if maintenance.state.is_underway() {
        // Ready all the while: whoever waits for this server would otherwise be told of its restart, each by a write.
        conditions::set_verdict(&mut status.conditions, generation, Verdict::ready(&message));
    }
    let desired = DesiredCondition::new(READY_TO_RESTART, is, reason, message).observed_generation(generation);
    let _ = conditions::set(&mut status.conditions, desired);
}

fn waiting_for(busy: &[String]) -> String {
    /// More processes than this are counted.
    const NAMED: usize = 5;
    match busy.len() {
        0 => "the poolers are quiet".to_owned(),
        count if count > NAMED => format!("waiting for {count} pooler processes to have no transaction"),
        _ => format!("waiting for {} to have no transaction", busy.join(", ")),
    }
}

/// The event that the end of a maintenance is worth.
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

    use crate::context::tests::server;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn wish(request: &str) -> Maintenance {
        Maintenance { request: request.into(), timeout_seconds: 55 }
    }

    fn seen(started: &str) -> Seen {
        Seen { started: started.into(), direct_sessions: 3 }
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
        let (wish, before) = (wish("r"), seen("before"));
        let pausing = next(Some(&wish), None, Some(&before), &[], at(100));
        assert_eq!(pausing, Some(status(MaintenanceState::Pausing)));
        let still = next(Some(&wish), pausing.as_ref(), Some(&before), &["global-0".into()], at(101));
        assert_eq!(still, pausing);
        let ready = next(Some(&wish), pausing.as_ref(), Some(&before), &[], at(102));
        assert_eq!(state(&ready), Some(MaintenanceState::ReadyToRestart));
        assert_eq!(ready.as_ref().unwrap().direct_sessions, Some(3));
        // Somebody's process that starts meanwhile changes nothing: it holds, too. Nor does that the server is away.
        assert_eq!(next(Some(&wish), ready.as_ref(), None, &["global-0".into()], at(110)), ready);
        let done = next(Some(&wish), ready.as_ref(), Some(&seen("later")), &[], at(120));
        assert_eq!(state(&done), Some(MaintenanceState::Done));
        assert_eq!(next(Some(&wish), done.as_ref(), None, &[], at(999)), done);
    }

    #[test]
    fn it_ends_without_a_restart_too() {
        let (wish, before) = (wish("r"), seen("before"));
        for underway in [status(MaintenanceState::Pausing), status(MaintenanceState::ReadyToRestart)] {
            for seen in [None, Some(&before)] {
                let over = next(Some(&wish), Some(&underway), seen, &[], at(155));
                assert_eq!(state(&over), Some(MaintenanceState::TimedOut));
            }
            assert_eq!(next(None, Some(&underway), None, &[], at(101)), None, "the request was taken away");
        }
        // Restarted before anybody was quiet, or so late that nobody waits any more: it was restarted.
        let early = next(Some(&wish), Some(&status(MaintenanceState::Pausing)), Some(&seen("x")), &[], at(160));
        assert_eq!(state(&early), Some(MaintenanceState::Done));
    }

    #[test]
    fn another_request_begins_anew() {
        let done = status(MaintenanceState::Done);
        let again = next(Some(&wish("s")), Some(&done), Some(&seen("later")), &[], at(300)).unwrap();
        assert_eq!((again.request.as_str(), again.state), ("s", MaintenanceState::Pausing));
        assert_eq!(again.server_started, "later");
        assert_eq!(next(Some(&wish("s")), Some(&done), None, &[], at(300)), None, "not before it can be reached");
    }

    #[test]
    fn at_rest_there_is_nothing_to_look_at() {
        let mut server = server("pg-1");
        assert!(!concerns(&server));
        server.spec.maintenance = Some(wish("r"));
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
        let withdrawn = DatabaseServer { spec: crate::context::tests::server("pg-1").spec, ..done };
        assert!(concerns(&withdrawn));
    }

    #[test]
    fn every_process_that_serves_must_be_quiet() {
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
    fn what_is_said() {
        let said = |state, direct_sessions, busy: &[String]| {
            let maintenance = Some(MaintenanceStatus { direct_sessions, ..status(state) });
            let mut now = DatabaseServerStatus { maintenance, ..DatabaseServerStatus::default() };
            tell(&mut now, Some(1), busy);
            let conditions = now.conditions.iter();
            let line = |c: &conditions::Condition| format!("{}={} {}: {}", c.type_, c.status, c.reason, c.message);
            conditions.map(line).collect::<Vec<_>>().join("\n")
        };
        insta::assert_snapshot!(
            [
                said(MaintenanceState::Pausing, None, &["ahoi-system/global-0".into()]),
                said(MaintenanceState::ReadyToRestart, Some(0), &[]),
                said(MaintenanceState::ReadyToRestart, Some(2), &[]),
                said(MaintenanceState::Done, Some(2), &[]),
                said(MaintenanceState::TimedOut, None, &[]),
            ]
            .join("\n\n")
        );
        let mut withdrawn =
            DatabaseServerStatus { maintenance: Some(status(MaintenanceState::Pausing)), ..Default::default() };
        tell(&mut withdrawn, Some(1), &[]);
        withdrawn.maintenance = None;
        tell(&mut withdrawn, Some(1), &[]);
        assert!(conditions::find(&withdrawn.conditions, READY_TO_RESTART).is_none());
    }

    #[test]
    fn only_an_end_is_an_event() {
        let (ready, done) = (status(MaintenanceState::ReadyToRestart), status(MaintenanceState::Done));
        assert!(event(None, Some(&ready)).is_none());
        assert_eq!(event(Some(&ready), Some(&done)).map(|(_, reason)| reason), Some("Restarted"));
        assert!(event(Some(&done), Some(&done)).is_none());
    }
}
