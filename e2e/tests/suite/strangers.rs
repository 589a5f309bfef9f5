//! Unauthenticated clients: they use no client slots of customers, and no packet crashes a process.

use std::time::Duration;

use ahoi_e2e::strangers::{Flood, Stranger, final_message, first_message, is_refused, startup};
use ahoi_e2e::{Cluster, SYSTEM};
use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use serde_json::json;
use tokio::time::{sleep, timeout};

/// More connections than the customer may have, and enough in each of two processes to be reported.
const CONNECTIONS: usize = 800;
const LOGINS: usize = 10;
/// Label of the pods of the fleet.
const PORT: u16 = 6432;

#[tokio::test]
async fn unfinished_logins_use_no_client_slots() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let name = "strangers";
    let features = json!({"database": {"enabled": true}, "connectionPool": {"maxClientConnections": 10}});
    cluster.create_customer(name, features).await?;
    cluster.ready(name).await?;
    let victim = cluster.pooled(name).await?;
    let (user, database) = (victim.get("username"), victim.get("database"));
    let address = (victim.address(), victim.get("port").parse()?);
    let kinds =
        [Stranger::Byte, Stranger::Tls, Stranger::Console, Stranger::UnknownUser, Stranger::Scram, Stranger::Startup];
    for kind in kinds {
        let flood = Flood::start(CONNECTIONS, kind, address, user, database).await?;
        for login in 0..LOGINS {
            let session = victim.connect().await;
            let session =
                session.with_context(|| format!("{kind:?}: login {login} during {} connections", flood.open()))?;
            session.query_one("SELECT 1", &[]).await?;
        }
        println!("strangers: {kind:?}: 0 of {LOGINS} logins failed during {} connections", flood.open());
        if kind == Stranger::Startup {
            let reported = async {
                while cluster.of_agents("ahoi_pooler_login_flood").await?.iter().any(|(_, value)| *value < 1.0) {
                    sleep(Duration::from_millis(500)).await;
                }
                anyhow::Ok(())
            };
            timeout(Duration::from_secs(20), reported).await.context("the flood is not reported within 20 s")??;
        }
    }
    cluster.delete_customer(name).await
}

/// Each packet triggers a published vulnerability of pgbouncer up to 1.26.0. The process must refuse it and keep running.
#[tokio::test]
async fn no_packet_crashes_a_process() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let before = cluster.of_agents("ahoi_pooler_restarts_total").await?;
    for (pod, _) in &before {
        let status = cluster.of::<Pod>(SYSTEM).get(pod).await?.status;
        let ip = status.and_then(|status| status.pod_ip).context("a pod without an address")?;
        let address = (ip.as_str(), PORT);
        let login = |further: &[(&str, &str)]| startup("c_nobody_a", "c_nobody", further);
        for (fault, messages) in [
            ("CVE-2026-19888", vec![login(&[]), first_message(), final_message("c=biws,x=1")]),
            ("CVE-2026-107349", vec![login(&[("options", "-c=")])]),
            ("CVE-2026-107350", vec![login(&[]), first_message(), login(&[])]),
        ] {
            is_refused(address, &messages).await.with_context(|| format!("{pod}: {fault}"))?;
        }
    }
    ensure!(cluster.of_agents("ahoi_pooler_restarts_total").await? == before, "a process was restarted");
    Ok(())
}
