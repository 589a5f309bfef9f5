//! Names within a PgBouncer fleet, which the controller assigns and the agents rely on.

use std::path::Path;

use ahoi_api::{PgBouncer, ProcessStatus};
use kube::ResourceExt;

use crate::PORT;
use crate::certificates::Tls;
use crate::config::{Settings, valid_parameters};

/// Name of a shard of the fleet, counted from 0: of its StatefulSet, Service and PodDisruptionBudget. The first shard has the
/// name of the fleet, as a fleet begins with one.
#[must_use]
pub fn shard(fleet: &str, shard: i32) -> String {
    if shard == 0 { fleet.to_owned() } else { format!("{fleet}-s{shard}") }
}

/// Name of the pod with process number `ordinal` of a shard, counted from 0.
#[must_use]
pub fn pod(shard: &str, ordinal: i32) -> String {
    format!("{shard}-{ordinal}")
}

/// Shard and number of a process, from the name of its pod.
#[must_use]
pub fn process(fleet: &str, pod: &str) -> Option<(i32, i32)> {
    let rest = pod.strip_prefix(fleet)?.strip_prefix('-')?;
    let number = |text: &str| text.parse().ok().filter(|number: &i32| *number >= 0);
    match rest.strip_prefix('s') {
        None => Some((0, number(rest)?)),
        Some(rest) => {
            let (shard, ordinal) = rest.split_once('-')?;
            Some((number(shard).filter(|shard| *shard > 0)?, number(ordinal)?))
        }
    }
}

/// Name of the headless Service that gives each process of a shard a host name.
#[must_use]
pub fn peers_service(shard: &str) -> String {
    format!("{shard}-peers")
}

/// Host that the clients of a shard connect to.
#[must_use]
pub fn host(namespace: &str, shard: &str) -> String {
    format!("{shard}.{namespace}.svc")
}

/// Field manager of the agent in `pod`, which owns its entry of `status.processes` alone.
#[must_use]
pub fn field_manager(pod: &str) -> String {
    format!("ahoi-pgbouncer-agent/{pod}")
}

/// Settings of the process in `pod`. Parameters that pgbouncer does not accept are left out; the controller reports them in the
/// fleet's status.
#[must_use]
pub fn settings(fleet: &PgBouncer, pod: &str, directory: &Path) -> Settings {
    let (name, namespace) = (fleet.name_any(), fleet.namespace().unwrap_or_default());
    let (shard, number) = process(&name, pod).map_or((0, None), |(shard, number)| (shard, Some(number)));
    // A cancel request may reach any process of the client's shard, and none of another shard.
    let shard = self::shard(&name, shard);
    let peers =
        (0..fleet.spec.replicas).map(|i| format!("{}.{}.{namespace}.svc", self::pod(&shard, i), peers_service(&shard)));
    Settings {
        directory: directory.to_owned(),
        port: PORT,
        pool_mode: fleet.spec.pool_mode,
        default_pool_size: fleet.spec.default_pool_size,
        max_client_connections: fleet.spec.max_client_connections,
        default_max_client_connections: max_clients_of_a_pool(fleet),
        parameters: valid_parameters(&fleet.spec.parameters),
        // Set by the agent, which reads the certificates.
        tls: Tls::default(),
        // A peer has to reach itself by its number; a process beyond spec.replicas is not in the list any more.
        peer_id: number
            .filter(|number| *number < fleet.spec.replicas)
            .and_then(|number| u32::try_from(number + 1).ok())
            .unwrap_or(0),
        peers: peers.collect(),
        ..Settings::default()
    }
}

/// Maximum number of clients of a pool without maxClientConnections, in each process.
fn max_clients_of_a_pool(fleet: &PgBouncer) -> i32 {
    fleet.spec.default_max_client_connections.unwrap_or_else(|| (fleet.spec.max_client_connections / 5).max(1))
}

/// The reports of the fleet's processes.
#[must_use]
pub fn reports(fleet: &PgBouncer) -> &[ProcessStatus] {
    fleet.status.as_ref().map(|status| status.processes.as_slice()).unwrap_or_default()
}

/// Number of processes of a shard that may have server connections: those in the spec, and those that still stop.
#[must_use]
pub fn processes(fleet: &PgBouncer, shard: i32) -> i64 {
    let name = fleet.name_any();
    let of_shard = |report: &&ProcessStatus| process(&name, &report.pod).is_some_and(|(of, _)| of == shard);
    let reported = reports(fleet).iter().filter(of_shard).count();
    i64::from(fleet.spec.replicas).max(i64::try_from(reported).unwrap_or(i64::MAX)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ahoi_api::{PgBouncerSpec, PgBouncerStatus};

    #[test]
    fn a_stopping_process_still_counts() {
        let mut fleet = PgBouncer::new("global", PgBouncerSpec { replicas: 2, ..PgBouncerSpec::default() });
        assert_eq!(processes(&fleet, 0), 2);
        let pods = ["global-0", "global-1", "global-2", "global-s1-0"];
        let reports = pods.map(|pod| ProcessStatus { pod: pod.into(), ..ProcessStatus::default() }).into();
        fleet.status = Some(PgBouncerStatus { processes: reports, ..PgBouncerStatus::default() });
        assert_eq!((processes(&fleet, 0), processes(&fleet, 1)), (3, 2));
    }

    #[test]
    fn each_process_finds_itself_among_its_peers() {
        let mut fleet = PgBouncer::new(
            "global",
            PgBouncerSpec { replicas: 2, max_client_connections: 5000, ..PgBouncerSpec::default() },
        );
        fleet.metadata.namespace = Some("ahoi-system".into());
        fleet.spec.parameters = [("query_timeout".into(), "5".into()), ("listen_port".into(), "1".into())].into();
        let settings = |pod| settings(&fleet, pod, Path::new("/run/pgbouncer"));
        assert_eq!(settings("global-1").peer_id, 2);
        assert_eq!(settings("global-1").peers[1], "global-1.global-peers.ahoi-system.svc");
        assert_eq!(settings("global-2").peer_id, 0, "it is beyond spec.replicas");
        assert_eq!(settings("global-0").default_max_client_connections, 1000, "a fifth");
        assert_eq!(settings("global-s3-0").peer_id, 1);
        assert_eq!(settings("global-s3-0").peers[1], "global-s3-1.global-s3-peers.ahoi-system.svc");
        assert_eq!(settings("global-0").parameters.keys().collect::<Vec<_>>(), ["query_timeout"]);
    }

    #[test]
    fn a_process_is_known_by_the_name_of_its_pod() {
        for (shard, ordinal) in [(0, 0), (0, 13), (1, 0), (12, 7)] {
            let name = pod(&super::shard("global", shard), ordinal);
            assert_eq!(process("global", &name), Some((shard, ordinal)), "{name}");
        }
        for other in
            ["global", "global-x", "global--1", "global-s0-1", "global-s1", "global-s1-", "global-east-0", "x-0"]
        {
            assert_eq!(process("global", other), None, "{other}");
        }
    }
}
