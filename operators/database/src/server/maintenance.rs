//! Planned maintenance: when clients are held, when an administrator may restart PostgreSQL, and when clients are served again. Pure.
//!
//! The agents of PgBouncer fleets read the status, hold clients, and report when they are quiet. A restart of PostgreSQL shows in the
//! time at which it was started. Databases are not concerned: their server stays Ready.

use ahoi_api::{
    DatabaseServer, DatabaseServerStatus, EventReason, HoldState, Maintenance, MaintenanceState, MaintenanceStatus,
    PgBouncer, READY_TO_RESTART, Reason,
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
        MaintenanceState::Pausing => (
            ConditionStatus::False,
            Reason::Pausing,
            format!("Pausing for maintenance {request}: {}", waiting_for(busy)),
        ),
        MaintenanceState::ReadyToRestart => {
            let cut = match maintenance.direct_sessions {
                None | Some(0) => String::new(),
                Some(1) => "; 1 session that does not come through a pooler will be ended".to_owned(),
                Some(count) => format!("; {count} sessions that do not come through a pooler will be ended"),
            };
            let message = format!("Ready to restart: restart PostgreSQL now for maintenance {request}{cut}");
            (ConditionStatus::True, Reason::ReadyToRestart, message)
        }
        MaintenanceState::Done => {
            (ConditionStatus::False, Reason::Done, format!("PostgreSQL was restarted for maintenance {request}"))
        }
        MaintenanceState::TimedOut => (
            ConditionStatus::False,
            Reason::TimedOut,
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
        count if count > NAMED => format!("waiting for open transactions in {count} pooler processes"),
        _ => format!("waiting for open transactions in {}", busy.join(", ")),
    }
}

/// The event at the end of a maintenance.
pub fn event(before: Option<&MaintenanceStatus>, now: Option<&MaintenanceStatus>) -> Option<(EventType, EventReason)> {
    let was_underway = before.is_some_and(|before| before.state.is_underway());
    match now?.state {
        MaintenanceState::Done if was_underway => Some((EventType::Normal, EventReason::Restarted)),
        MaintenanceState::TimedOut if was_underway => Some((EventType::Warning, EventReason::MaintenanceTimedOut)),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
