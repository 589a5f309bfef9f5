//! The database controller keeps no idle session, because PostgreSQL's smart shutdown waits for sessions.

use std::time::Duration;

use ahoi_e2e::Cluster;
use anyhow::{Result, ensure};
use serde_json::json;
use tokio::time::{Instant, sleep};

/// Longest idle time of a session of the controller: twice the limit of its pool, plus the delay of a busy machine.
const IDLE: f64 = 6.0;
/// Servers are measured at least every 24 s.
const WATCHED: Duration = Duration::from_secs(30);

#[tokio::test]
async fn the_controller_keeps_no_idle_session() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let name = "sessions";
    cluster
        .create_customer_with(name, json!({"deletionPolicy": "Delete", "features": {"database": {"enabled": true}}}))
        .await?;
    cluster.ready(name).await?;
    let admin = cluster.admin("postgres").await?;
    let idle = "SELECT count(*), coalesce(max(extract(epoch FROM clock_timestamp() - state_change)), 0)::float8 \
        FROM pg_stat_activity WHERE application_name = 'ahoi-database' AND state = 'idle'";
    let (mut seen, mut longest, begun) = (0, 0.0_f64, Instant::now());
    while begun.elapsed() < WATCHED {
        let row = admin.query_one(idle, &[]).await?;
        seen += row.get::<_, i64>(0);
        longest = longest.max(row.get(1));
        // PostgreSQL has no watch.
        sleep(Duration::from_millis(100)).await;
    }
    println!("sessions: idle for {longest:.1} s at most");
    ensure!(seen > 0, "the controller had no session: the test proves nothing");
    ensure!(longest < IDLE, "a session of the controller was idle for {longest:.1} s");
    cluster.delete_customer(name).await
}
