//! Pods that test network connections.

use std::fmt::Write as _;

use anyhow::{Context as _, Result};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use kube::api::PostParams;
use serde_json::json;

use crate::cluster::Cluster;
use crate::system::SYSTEM;

/// Name of the pod in each namespace.
pub const PROBE: &str = "probe";
/// Port on which a probe listens.
pub const PROBE_PORT: u16 = 8080;

/// Destination of a connection.
#[derive(Clone, Debug)]
pub struct Target {
    /// Description, for assertions.
    pub what: String,
    /// Address or host name.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

impl Target {
    /// Creates a target.
    pub fn new(what: &str, host: impl Into<String>, port: u16) -> Self {
        Self { what: what.to_owned(), host: host.into(), port }
    }
}

impl Cluster {
    /// Starts a pod in the namespace that listens on [`PROBE_PORT`]. Returns its address.
    pub async fn start_probe(&self, namespace: &str) -> Result<String> {
        let postgres = self.of::<StatefulSet>(SYSTEM).get("demo-postgres").await?;
        let pods = postgres.spec.and_then(|spec| spec.template.spec).context("demo-postgres has no pods")?;
        let image = pods.containers[0].image.clone();
        let answer = "use IO::Socket::INET; \
            my $s = IO::Socket::INET->new(LocalPort => 8080, Listen => 9, ReuseAddr => 1) or die; \
            while (my $c = $s->accept) { print $c qq(here\n); close $c }";
        let pod = json!({
            "metadata": {"name": PROBE},
            "spec": {
                "automountServiceAccountToken": false,
                "terminationGracePeriodSeconds": 0,
                "securityContext": {"runAsNonRoot": true, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}},
                "containers": [{
                    "name": PROBE, "image": image, "command": ["perl", "-e", answer],
                    "readinessProbe": {"tcpSocket": {"port": PROBE_PORT}, "periodSeconds": 1},
                    "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}},
                }],
            },
        });
        let pods = self.of::<Pod>(namespace);
        self.delete(&pods, PROBE, 60).await?;
        pods.create(&PostParams::default(), &serde_json::from_value(pod)?).await?;
        let ready = |pod: Option<&Pod>| {
            let conditions = pod.and_then(|pod| pod.status.as_ref()?.conditions.as_ref());
            conditions.into_iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True")
        };
        let pod = self.until(&pods, PROBE, "Ready", 120, ready).await?.context("the probe was deleted")?;
        pod.status.and_then(|status| status.pod_ip).with_context(|| format!("no address in {namespace}"))
    }

    /// Returns the targets that the probe of the namespace reaches within three seconds.
    pub async fn reached(&self, namespace: &str, targets: &[Target]) -> Result<Vec<String>> {
        let mut script = String::new();
        for (number, Target { host, port, .. }) in targets.iter().enumerate() {
            writeln!(script, "(timeout 3 bash -c 'exec 3<>/dev/tcp/{host}/{port}' 2>/dev/null && echo {number}) &")?;
        }
        script.push_str("wait\n");
        let reached = self.kubectl(&["-n", namespace, "exec", "-i", PROBE, "--", "bash"], &script).await?;
        let mut numbers = reached.lines().map(str::parse).collect::<Result<Vec<usize>, _>>()?;
        numbers.sort_unstable();
        Ok(numbers.into_iter().map(|number| targets[number].what.clone()).collect())
    }

    /// Returns the address of a pod with these labels.
    pub async fn address_of_pod(&self, labels: &str) -> Result<String> {
        let pods = self.of::<Pod>(SYSTEM).list(&kube::api::ListParams::default().labels(labels)).await?;
        let pod = pods.items.into_iter().find(|pod| pod.metadata.deletion_timestamp.is_none());
        let pod = pod.with_context(|| format!("no pod with {labels}"))?;
        let name = pod.name_any();
        pod.status.and_then(|status| status.pod_ip).with_context(|| format!("{name} has no address"))
    }
}
