//! The status of a fleet; pure.

use std::collections::{BTreeMap, BTreeSet};

use ahoi_api::{HoldState, PgBouncer, PgBouncerStatus, Reason, ShardRoom, ShardStatus};
use ahoi_pgbouncer::fleet;
use ahoi_pgbouncer::pool::Serving;
use ahoi_reconcile::{Verdict, conditions};
use kube::ResourceExt;

use super::faults::Faults;
use crate::placement::{Pools, is_full, running};
use crate::shared::FLEET_LABEL;

/// The status that follows from the ready pods, the agents' reports and the shards of the pools. The entries of the agents stay as
/// they are. `refused` takes precedence: an administrator has to correct it.
pub fn status(
    fleet: &PgBouncer,
    serving: &[Serving],
    pools: &Pools,
    refused: Option<Verdict>,
    faults: Option<Faults>,
) -> PgBouncerStatus {
    let mut status = fleet.status.clone().unwrap_or_default();
    let wanted = fleet.spec.replicas * running(&fleet.spec, pools);
    status.host = Some(fleet::host(&fleet.namespace().unwrap_or_default(), &fleet.name_any()));
    status.serving = serving.iter().map(|process| process.pod.clone()).collect();
    status.replicas = Some(wanted);
    status.ready_replicas = i32::try_from(serving.len()).ok();
    status.selector = Some(format!("{FLEET_LABEL}={}", fleet.name_any()));
    status.shards = shards(fleet, pools);
    let wanted = usize::try_from(wanted).unwrap_or_default();
    let verdict = refused.unwrap_or_else(|| verdict(fleet, &status, serving.len(), wanted, faults));
    conditions::set_verdict(&mut status.conditions, fleet.metadata.generation, verdict);
    status
}

/// The shards, without their number of pools: otherwise every new customer would be a write.
fn shards(fleet: &PgBouncer, pools: &Pools) -> Vec<ShardStatus> {
    let (namespace, name) = (fleet.namespace().unwrap_or_default(), fleet.name_any());
    let running = running(&fleet.spec, pools);
    let shard = |index: i32| ShardStatus {
        index,
        host: fleet::host(&namespace, &fleet::shard(&name, index)),
        room: match index {
            _ if index >= fleet.spec.shards => ShardRoom::Closing,
            _ if is_full(&fleet.spec, pools, index) => ShardRoom::Full,
            _ => ShardRoom::Open,
        },
    };
    if running > 1 { (0..running).map(shard).collect() } else { Vec::new() }
}

fn verdict(
    fleet: &PgBouncer,
    status: &PgBouncerStatus,
    serving: usize,
    wanted: usize,
    faults: Option<Faults>,
) -> Verdict {
    let closing = status.shards.iter().rev().find(|shard| shard.room == ShardRoom::Closing);
    if let Some(ShardStatus { index, .. }) = closing {
        return Verdict::stalled(
            Reason::ShardsInUse,
            format!(
                "shard {index} has ConnectionPools and keeps running, although spec.shards is {}. Set spec.shards to {} again. The \
                 shard is removed when it has no customer: delete its customers, or disable their features.connectionPool",
                fleet.spec.shards,
                index + 1
            ),
        );
    }
    let mut message = format!("{serving} of {wanted} processes are ready");
    let errors = errors(status);
    for (error, pods) in &errors {
        message = format!("{message}; {}: {error}", pods.join(", "));
    }
    for (server, pods) in holding(status) {
        message = format!(
            "{message}; DatabaseServer {server} is unreachable from {}, which hold its clients",
            pods.join(", ")
        );
    }
    for server in overcommitted(status) {
        message = format!(
            "{message}; DatabaseServer {server} has fewer connections than pools, each of which needs one in each process. Raise \
             its spec.maxPoolerConnections, or raise spec.connectionBudget.overcommitPercent or lower spec.replicas of the PgBouncer"
        );
    }
    if let Some(faults) = faults.filter(|_| serving < wanted) {
        Verdict::stalled(faults.reason, format!("{message}; {}", faults.message))
    } else if serving < wanted {
        Verdict::progressing(Reason::Starting, message)
    } else if errors.is_empty() {
        Verdict::ready(message)
    } else {
        Verdict::progressing(Reason::NotLoaded, message)
    }
}

/// The errors of agents, each with the pods that report it.
fn errors(status: &PgBouncerStatus) -> BTreeMap<&str, Vec<&str>> {
    let mut errors: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for process in &status.processes {
        if let Some(error) = &process.error {
            errors.entry(error).or_default().push(&process.pod);
        }
    }
    // Agents report in any order.
    errors.values_mut().for_each(|pods| pods.sort_unstable());
    errors
}

/// The unreachable servers, each with the pods that hold its clients. A maintenance has a condition of its own.
fn holding(status: &PgBouncerStatus) -> BTreeMap<&str, Vec<&str>> {
    let mut holding: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for process in &status.processes {
        for held in process.held.iter().filter(|held| held.state == HoldState::Unreachable) {
            holding.entry(&held.server).or_default().push(&process.pod);
        }
    }
    holding.values_mut().for_each(|pods| pods.sort_unstable());
    holding
}

/// Servers with fewer connections than routes.
fn overcommitted(status: &PgBouncerStatus) -> BTreeSet<&str> {
    status.processes.iter().flat_map(|process| &process.overcommitted).map(String::as_str).collect()
}

/// The processes in the status that a fleet with so many running shards no longer has.
pub fn former(fleet: &PgBouncer, running: i32) -> Vec<&str> {
    let name = fleet.name_any();
    let gone = fleet::reports(fleet).iter().filter(|process| {
        fleet::process(&name, &process.pod)
            .is_none_or(|(shard, number)| shard >= running || number >= fleet.spec.replicas)
    });
    gone.map(|process| process.pod.as_str()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ahoi_api::{HeldServer, PgBouncerSpec, ProcessStatus};

    fn fleet(processes: Vec<ProcessStatus>) -> PgBouncer {
        let mut fleet = PgBouncer::new("global", PgBouncerSpec { replicas: 2, ..one_shard() });
        fleet.metadata.namespace = Some("ahoi-system".into());
        fleet.status = Some(PgBouncerStatus { processes, ..PgBouncerStatus::default() });
        fleet
    }

    fn one_shard() -> PgBouncerSpec {
        PgBouncerSpec { shards: 1, max_routes_per_shard: 2, ..PgBouncerSpec::default() }
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
    fn entries_of_agents_stay_unchanged() {
        let fleet = fleet(vec![process("global-0", None), process("global-7", None)]);
        let status = status(&fleet, &serving(&["global-0", "global-1"]), &Pools::new(), None, None);
        assert_eq!(status.shards, [], "a single shard is not listed");
        assert_eq!(status.processes, fleet.status.as_ref().unwrap().processes);
        assert_eq!(status.host.as_deref(), Some("global.ahoi-system.svc"));
        assert_eq!((status.ready_replicas, status.replicas), (Some(2), Some(2)));
        assert_eq!(message(&status), "True Ready: 2 of 2 processes are ready");
        assert_eq!(status.serving, ["global-0", "global-1"]);
        assert_eq!(former(&fleet, 1), ["global-7"]);
    }

    #[test]
    fn unreachable_servers_are_reported() {
        let mut processes = vec![process("global-1", None), process("global-0", None)];
        for process in &mut processes {
            let unreachable = HeldServer { server: "pg-1".into(), state: HoldState::Unreachable, request: None };
            let planned = HeldServer { server: "pg-2".into(), state: HoldState::Quiet, request: Some("r".into()) };
            process.held = vec![unreachable, planned];
        }
        assert_eq!(
            message(&status(&fleet(processes), &serving(&["global-0", "global-1"]), &Pools::default(), None, None)),
            "True Ready: 2 of 2 processes are ready; \
             DatabaseServer pg-1 is unreachable from global-0, global-1, which hold its clients"
        );
    }

    #[test]
    fn an_overcommitted_server_is_named_once() {
        let short = |pod| ProcessStatus { overcommitted: vec!["pg-1".into()], ..process(pod, None) };
        let fleet = fleet(vec![short("global-0"), short("global-1")]);
        assert_eq!(
            message(&status(&fleet, &serving(&["global-0", "global-1"]), &Pools::default(), None, None)),
            "True Ready: 2 of 2 processes are ready; DatabaseServer pg-1 has fewer connections than pools, each of which \
             needs one in each process. Raise its spec.maxPoolerConnections, or raise spec.connectionBudget.overcommitPercent or \
             lower spec.replicas of the PgBouncer"
        );
    }

    #[test]
    fn errors_of_agents_are_reported() {
        let error = Some("pgbouncer does not answer");
        let fleet = fleet(vec![process("global-1", error), process("global-0", error)]);
        assert_eq!(
            message(&status(&fleet, &[], &Pools::new(), None, None)),
            "False Starting: 0 of 2 processes are ready; global-0, global-1: pgbouncer does not answer"
        );
        assert_eq!(
            message(&status(&fleet, &serving(&["global-0", "global-1"]), &Pools::new(), None, None)),
            "False NotLoaded: 2 of 2 processes are ready; global-0, global-1: pgbouncer does not answer"
        );
    }

    #[test]
    fn shards_are_listed_and_one_in_use_is_not_removed() {
        let mut fleet = fleet(vec![process("global-s1-0", None), process("global-s2-0", None)]);
        fleet.spec.shards = 2;
        let pools = Pools::from([(0, 2), (1, 1)]);
        let pods = serving(&["global-0", "global-1", "global-s1-0", "global-s1-1"]);
        let before = status(&fleet, &pods, &pools, None, None);
        assert_eq!((before.ready_replicas, before.replicas), (Some(4), Some(4)));
        assert_eq!(before.host.as_deref(), Some("global.ahoi-system.svc"));
        let rooms: Vec<_> = before.shards.iter().map(|shard| (shard.host.as_str(), shard.room)).collect();
        assert_eq!(
            rooms,
            [("global.ahoi-system.svc", ShardRoom::Full), ("global-s1.ahoi-system.svc", ShardRoom::Open)]
        );
        assert_eq!(former(&fleet, 2), ["global-s2-0"]);
        fleet.spec.shards = 1;
        let in_use = status(&fleet, &pods, &pools, None, None);
        assert_eq!(in_use.shards[1].room, ShardRoom::Closing);
        insta::assert_snapshot!(message(&in_use), @"False ShardsInUse: shard 1 has ConnectionPools and keeps running, although spec.shards is 1. Set spec.shards to 2 again. The shard is removed when it has no customer: delete its customers, or disable their features.connectionPool");
        assert_eq!(status(&fleet, &pods[..2], &[(0, 2)].into(), None, None).shards, []);
    }
}
