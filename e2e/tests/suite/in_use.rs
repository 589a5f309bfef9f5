//! Objects that customers use cannot be deleted by accident.

use ahoi_api::{DatabaseServer, PgBouncer, Plan};
use ahoi_e2e::{Cluster, SYSTEM};
use anyhow::{Context as _, Result, ensure};
use kube::api::PostParams;
use serde_json::json;

/// Seconds until the status of a server and of a fleet counts the customer. A server is swept every minute.
const COUNTED: u64 = 150;

#[tokio::test]
async fn objects_in_use_cannot_be_deleted() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let name = "in-use";
    cluster.delete_customer(name).await?;
    let plans = cluster.all::<Plan>();
    cluster.delete(&plans, name, 60).await?;
    let spec = serde_json::from_value(json!({"features": {"database": {"enabled": true}}}))?;
    plans.create(&PostParams::default(), &Plan::new(name, spec)).await?;
    let counted =
        |count: i64| move |plan: Option<&Plan>| plan.and_then(|plan| plan.status.as_ref()?.customers) == Some(count);
    cluster.until(&plans, name, "counted without customers", 30, counted(0)).await?;
    cluster.kubectl(&["delete", "--dry-run=server", "plan", name], "").await.context("a Plan without customers")?;

    cluster.create_customer_with(name, json!({"plan": name})).await?;
    cluster.until(&plans, name, "one customer is counted", 30, counted(1)).await?;
    cluster.ready(name).await?;
    let has_database = |server: Option<&DatabaseServer>| {
        let status = server.and_then(|server| server.status.as_ref());
        status.is_some_and(|status| status.allocated_bytes.unwrap_or(0) > 0)
    };
    cluster.until(&cluster.all(), "demo", "the database is counted", COUNTED, has_database).await?;
    let has_route = |fleet: Option<&PgBouncer>| {
        fleet.and_then(|fleet| fleet.status.as_ref()).is_some_and(|s| s.processes.iter().any(|p| p.routes > 0))
    };
    cluster.until(&cluster.of(SYSTEM), "global", "the route is counted", COUNTED, has_route).await?;

    for (kind, object, says) in [
        ("plan", name, "in use by 1 customers"),
        ("databaseserver", "demo", "databases of customers"),
        ("pgbouncer", "global", "customers each"),
    ] {
        let delete = ["-n", SYSTEM, "delete", "--dry-run=server", kind, object];
        let refusal =
            cluster.kubectl(&delete, "").await.err().with_context(|| format!("{kind} {object} can be deleted"))?;
        let refusal = refusal.to_string();
        println!("in use: {refusal}");
        for word in [object, "in use", says, "allow-deletion=true"] {
            ensure!(refusal.contains(word), "{kind}: {word:?} is not in {refusal:?}");
        }
    }
    let annotate = ["annotate", "plan", name, "internal.example.com/allow-deletion=true"];
    cluster.kubectl(&annotate, "").await?;
    cluster
        .kubectl(&["delete", "--dry-run=server", "plan", name], "")
        .await
        .context("a deletion with the annotation")?;
    let forbid = ["annotate", "plan", name, "internal.example.com/allow-deletion-"];
    cluster.kubectl(&forbid, "").await?;

    cluster.delete_customer(name).await?;
    cluster.delete(&plans, name, 60).await
}
