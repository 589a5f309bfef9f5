//! Metrics of the agents of the PgBouncer fleet.

use std::time::Duration;

use anyhow::{Context as _, Result};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::ListParams;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::Cluster;
use crate::system::SYSTEM;

/// Label of the pods of the fleet `global`.
const FLEET: &str = "internal.example.com/pgbouncer=global";

impl Cluster {
    /// Returns a metric of each agent of the fleet, with the name of its pod. Agents read the statistics of pgbouncer every 15 s.
    pub async fn of_agents(&self, metric: &str) -> Result<Vec<(String, f64)>> {
        let pods = self.of::<Pod>(SYSTEM).list(&ListParams::default().labels(FLEET)).await?;
        let mut found = Vec::new();
        for pod in pods {
            let name = pod.name_any();
            let ip = pod.status.and_then(|status| status.pod_ip).with_context(|| format!("{name} has no address"))?;
            let metrics = metrics(&ip, 8080).await.with_context(|| name.clone())?;
            let value = metrics.lines().find_map(|line| line.strip_prefix(metric)?.trim().parse().ok());
            found.push((name.clone(), value.with_context(|| format!("{name} has no {metric}"))?));
        }
        Ok(found)
    }
}

/// Returns the metrics page of the process at this address.
pub async fn metrics(ip: &str, port: u16) -> Result<String> {
    let asked = async {
        let mut stream = TcpStream::connect((ip, port)).await?;
        let request = format!("GET /metrics HTTP/1.1\r\nHost: {ip}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        anyhow::Ok(answer)
    };
    timeout(Duration::from_secs(10), asked).await?
}
