//! How a fleet is; pure.

use std::collections::BTreeMap;

use ahoi_api::{PgBouncer, PgBouncerStatus};
use ahoi_pgbouncer::fleet;
use ahoi_pgbouncer::pool::Serving;
use ahoi_reconcile::{Verdict, conditions};
use kube::ResourceExt;

/// The status that follows from which pods serve and what their agents say. The agents' own entries are handed back as
/// they are. What somebody has to mend (`trouble`) is said before everything else.
pub fn status(fleet: &PgBouncer, serving: &[Serving], trouble: Option<Verdict>) -> PgBouncerStatus {
    let mut status = fleet.status.clone().unwrap_or_default();
    status.host = Some(fleet::host(&fleet.namespace().unwrap_or_default(), &fleet.name_any()));
    status.summary = Some(format!("{}/{}", serving.len(), fleet.spec.replicas));
    let verdict = trouble.unwrap_or_else(|| verdict(fleet, &status, serving));
    conditions::settle(&mut status.conditions, fleet.metadata.generation, verdict);
    status
}

fn verdict(fleet: &PgBouncer, status: &PgBouncerStatus, serving: &[Serving]) -> Verdict {
    let wanted = usize::try_from(fleet.spec.replicas).unwrap_or_default();
    let mut message = format!("{} of {wanted} processes serve", serving.len());
    let troubles = troubles(status);
    for (error, pods) in &troubles {
        message = format!("{message}; {}: {error}", pods.join(", "));
    }
    if serving.len() < wanted {
        Verdict::progressing("Starting", message)
    } else if troubles.is_empty() {
        Verdict::ready(message)
    } else {
        Verdict::progressing("NotLoaded", message)
    }
}

/// What agents complain about, and which of them do.
fn troubles(status: &PgBouncerStatus) -> BTreeMap<&str, Vec<&str>> {
    let mut troubles: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for process in &status.processes {
        if let Some(error) = &process.error {
            troubles.entry(error).or_default().push(&process.pod);
        }
    }
    // Agents write in any order.
    troubles.values_mut().for_each(|pods| pods.sort_unstable());
    troubles
}

/// The processes in the status that the fleet no longer has.
pub fn former(fleet: &PgBouncer) -> Vec<&str> {
    let name = fleet.name_any();
    let processes = fleet.status.iter().flat_map(|status| &status.processes);
    let gone = processes
        .filter(|process| fleet::ordinal(&name, &process.pod).is_none_or(|number| number >= fleet.spec.replicas));
    gone.map(|process| process.pod.as_str()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ahoi_api::{PgBouncerSpec, ProcessStatus};

    fn fleet(processes: Vec<ProcessStatus>) -> PgBouncer {
        let mut fleet = PgBouncer::new("global", PgBouncerSpec { replicas: 2, ..PgBouncerSpec::default() });
        fleet.metadata.namespace = Some("ahoi-system".into());
        fleet.status = Some(PgBouncerStatus { processes, ..PgBouncerStatus::default() });
        fleet
    }

    fn process(pod: &str, error: Option<&str>) -> ProcessStatus {
        ProcessStatus { pod: pod.into(), uid: "u".into(), error: error.map(Into::into), ..ProcessStatus::default() }
    }

    fn serving(pods: &[&str]) -> Vec<Serving> {
        pods.iter().map(|pod| Serving { pod: (*pod).into(), uid: "u".into() }).collect()
    }

    fn message(status: &PgBouncerStatus) -> String {
        let ready = status.conditions.iter().find(|condition| condition.type_ == "Ready").unwrap();
        format!("{} {}: {}", ready.status, ready.reason, ready.message)
    }

    #[test]
    fn the_agents_entries_are_left_as_they_are() {
        let fleet = fleet(vec![process("global-0", None), process("global-7", None)]);
        let status = status(&fleet, &serving(&["global-0", "global-1"]), None);
        assert_eq!(status.processes, fleet.status.as_ref().unwrap().processes);
        assert_eq!(status.host.as_deref(), Some("global.ahoi-system.svc"));
        assert_eq!(status.summary.as_deref(), Some("2/2"));
        assert_eq!(message(&status), "True Ready: 2 of 2 processes serve");
        assert_eq!(former(&fleet), ["global-7"]);
    }

    #[test]
    fn what_keeps_it_is_said() {
        let mute = Some("pgbouncer does not answer");
        let fleet = fleet(vec![process("global-1", mute), process("global-0", mute)]);
        assert_eq!(
            message(&status(&fleet, &[], None)),
            "False Starting: 0 of 2 processes serve; global-0, global-1: pgbouncer does not answer"
        );
        assert_eq!(
            message(&status(&fleet, &serving(&["global-0", "global-1"]), None)),
            "False NotLoaded: 2 of 2 processes serve; global-0, global-1: pgbouncer does not answer"
        );
    }
}
