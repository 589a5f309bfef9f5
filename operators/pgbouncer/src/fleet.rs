//! Names within a fleet, which the controller gives and the agents rely on.

use std::path::Path;

use ahoi_api::PgBouncer;
use kube::ResourceExt;

use crate::PORT;
use crate::certificates::Tls;
use crate::config::{Settings, valid_parameters};

/// The name of the fleet's process number `ordinal`, counted from 0.
#[must_use]
pub fn pod(fleet: &str, ordinal: i32) -> String {
    format!("{fleet}-{ordinal}")
}

/// The number of a process, from the name of its pod.
#[must_use]
pub fn ordinal(fleet: &str, pod: &str) -> Option<i32> {
    pod.strip_prefix(fleet)?.strip_prefix('-')?.parse().ok()
}

/// The headless Service under which each process has a name of its own.
#[must_use]
pub fn peers_service(fleet: &str) -> String {
    format!("{fleet}-peers")
}

/// The host that clients connect to.
#[must_use]
pub fn host(namespace: &str, fleet: &str) -> String {
    format!("{fleet}.{namespace}.svc")
}

/// The field manager of the agent in `pod`; each owns its own entry of `status.processes`, and no other.
#[must_use]
pub fn field_manager(pod: &str) -> String {
    format!("ahoi-pgbouncer-agent/{pod}")
}

/// What the fleet says about the process in `pod`. Parameters that pgbouncer would not understand are left out; the
/// controller says so in the fleet's status.
#[must_use]
pub fn settings(fleet: &PgBouncer, pod: &str, directory: &Path) -> Settings {
    let (name, namespace) = (fleet.name_any(), fleet.namespace().unwrap_or_default());
    let number = ordinal(&name, pod);
    let peers =
        (0..fleet.spec.replicas).map(|i| format!("{}.{}.{namespace}.svc", self::pod(&name, i), peers_service(&name)));
    Settings {
        directory: directory.to_owned(),
        port: PORT,
        pool_mode: fleet.spec.pool_mode,
        default_pool_size: fleet.spec.default_pool_size,
        max_client_connections: fleet.spec.max_client_connections,
        parameters: valid_parameters(&fleet.spec.parameters),
        // Its certificates are elsewhere.
        tls: Tls::default(),
        // A peer must be able to reach itself by its number, which a process that is to go no longer can.
        peer_id: number
            .filter(|number| *number < fleet.spec.replicas)
            .and_then(|number| u32::try_from(number + 1).ok())
            .unwrap_or(0),
        peers: peers.collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ahoi_api::PgBouncerSpec;

    #[test]
    fn each_process_finds_itself_among_its_peers() {
        let mut fleet = PgBouncer::new("global", PgBouncerSpec { replicas: 2, ..PgBouncerSpec::default() });
        fleet.metadata.namespace = Some("ahoi-system".into());
        fleet.spec.parameters = [("query_timeout".into(), "5".into()), ("listen_port".into(), "1".into())].into();
        let settings = |pod| settings(&fleet, pod, Path::new("/run/pgbouncer"));
        assert_eq!(settings("global-1").peer_id, 2);
        assert_eq!(settings("global-1").peers[1], "global-1.global-peers.ahoi-system.svc");
        assert_eq!(settings("global-2").peer_id, 0, "it is one too many");
        assert_eq!(settings("global-0").parameters.keys().collect::<Vec<_>>(), ["query_timeout"]);
    }
}
