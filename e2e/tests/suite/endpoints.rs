//! Endpoints of each controller and agent: /livez, /readyz and /metrics.

use ahoi_e2e::{Cluster, SYSTEM};
use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::ListParams;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

#[tokio::test]
async fn every_process_serves_health_and_metrics() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let pods = cluster.of::<Pod>(SYSTEM).list(&ListParams::default()).await?;
    let mut asked = 0;
    for pod in pods {
        let name = pod.name_any();
        let ours = name.starts_with("ahoi-") || name.starts_with("global-");
        let Some(ip) = pod.status.and_then(|s| s.pod_ip).filter(|_| ours && pod.metadata.deletion_timestamp.is_none())
        else {
            continue;
        };
        for path in ["/livez", "/readyz"] {
            let answer = get(&ip, path).await.with_context(|| format!("{name} {path}"))?;
            ensure!(answer.starts_with("HTTP/1.1 200"), "{name} {path}: {answer}");
        }
        let metrics = get(&ip, "/metrics").await?;
        // A standby has not reconciled, but it has sent requests and knows that it is not the leader.
        for metric in ["ahoi_leader", "ahoi_api_requests_total"].iter().filter(|_| name.starts_with("ahoi-")) {
            ensure!(metrics.contains(metric), "{name} has no {metric}");
        }
        ensure!(metrics.lines().filter(|l| !l.starts_with('#')).count() < 500, "{name}: too many series");
        // Only the busiest customers have series, labelled with their namespace. No other series has the name of an object.
        let named = metrics.lines().filter(|line| line.contains("customer-"));
        let top = |line: &str| line.contains("{pool_namespace=") || line.contains("{database_namespace=");
        let (top, others): (Vec<_>, Vec<_>) = named.partition(|line| top(line));
        ensure!(others.is_empty(), "{name}: metrics hold names of objects: {others:?}");
        ensure!(top.len() <= 4 * 20, "{name}: {} series of single customers", top.len());
        asked += 1;
    }
    ensure!(asked >= 12, "only {asked} processes were checked");
    Ok(())
}

pub async fn get(ip: &str, path: &str) -> Result<String> {
    let asked = async {
        let mut stream = TcpStream::connect((ip, 8080)).await?;
        stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: {ip}\r\nConnection: close\r\n\r\n").as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        anyhow::Ok(answer)
    };
    tokio::time::timeout(std::time::Duration::from_secs(10), asked).await?
}
