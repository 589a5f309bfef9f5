//! Requests of the controllers, counted in the audit log of the API server. One test, because its parts need the cluster
//! exclusively and depend on each other.

use std::time::Duration;

use ahoi_api::{ConnectionPool, Database, DatabaseServer, PgBouncer, ProcessStatus, namespace_of};
use ahoi_e2e::Cluster;
use ahoi_e2e::audit::{Audit, Request, table};
use ahoi_e2e::kinds::{Scope, resources};
use ahoi_reconcile::is_ready;
use anyhow::{Result, ensure};
use k8s_openapi::api::apps::v1::StatefulSet;
use kube::api::{ListParams, Patch, PatchParams};
use serde_json::json;

/// Maximum number of writes from apply to Ready for the customer of the README, including one event and one update of the status
/// of its Plan.
const BUDGET: usize = 29;
const CUSTOMERS: usize = 50;
const MANIFEST: &str = include_str!("../../../manifests/demo/customer/customer.yaml");

fn writes(requests: Vec<Request>) -> Vec<Request> {
    requests.into_iter().filter(Request::is_write).collect()
}

#[tokio::test]
async fn requests_per_customer_at_restart_and_at_rest() -> Result<()> {
    let cluster = Cluster::connect().await?;
    one_customer(&cluster).await?;

    let names: Vec<String> = (0..CUSTOMERS).map(|n| format!("calls-{n:02}")).collect();
    for name in &names {
        // Without running pods, which a test machine cannot have for fifty customers.
        let features =
            json!({"database": {"enabled": true, "storage": "1gb"}, "scheduler": {"enabled": true, "workers": 0}});
        cluster.create_customer(name, features).await?;
    }
    for name in &names {
        cluster.ready(name).await?;
    }
    counted(&cluster).await?;
    settled(&cluster).await?;
    restart(&cluster).await?;
    no_requests_at_rest().await?;
    server_unreachable(&cluster).await?;
    implausible_shrink(&cluster, &names).await?;

    for name in &names {
        cluster.customers().delete(name, &kube::api::DeleteParams::default()).await?;
    }
    for name in &names {
        cluster.until_gone(&cluster.customers(), name, 600).await?;
    }
    Ok(())
}

/// The DatabaseServer and the agents report an unreachable server. Its customers cause no write.
async fn server_unreachable(cluster: &Cluster) -> Result<()> {
    let servers = cluster.all::<DatabaseServer>();
    let mark = Audit::mark()?;
    postgresql(cluster, 0).await?;
    let away = |server: Option<&DatabaseServer>| server.is_some_and(|server| !is_ready(server));
    cluster.until(&servers, "demo", "reported as unreachable", 150, away).await?;
    settled(cluster).await?;
    postgresql(cluster, 1).await?;
    let back = |server: Option<&DatabaseServer>| server.is_some_and(is_ready);
    cluster.until(&servers, "demo", "reported as Ready", 150, back).await?;
    settled(cluster).await?;
    let writes = writes(mark.since()?);
    println!("{} writes for an outage of a server with {CUSTOMERS} customers\n{}", writes.len(), table(&writes));
    let of = |resources: &[&str]| writes.iter().filter(|w| resources.contains(&w.object_ref.resource.as_str())).count();
    let kinds = [resources(Scope::Cluster), resources(Scope::Namespaced)].concat();
    // The server and its PgBouncer fleet report the outage.
    let about_customers =
        kinds.iter().map(String::as_str).filter(|kind| !["databaseservers", "pgbouncers", "plans"].contains(kind));
    let customers = of(&about_customers.chain(["secrets"]).collect::<Vec<_>>());
    ensure!(customers == 0, "{customers} writes of objects of customers");
    // The server and its fleet: unreachable and back.
    ensure!(of(&["events"]) <= 4, "{} events", of(&["events"]));
    Ok(())
}

/// Scales PostgreSQL.
async fn postgresql(cluster: &Cluster, replicas: i32) -> Result<()> {
    let sets = cluster.of::<StatefulSet>(ahoi_e2e::SYSTEM);
    let patch = Patch::Merge(json!({"spec": {"replicas": replicas}}));
    sets.patch("demo-postgres", &PatchParams::default(), &patch).await?;
    let so = |set: Option<&StatefulSet>| {
        let status = set.and_then(|set| set.status.as_ref());
        status.is_some_and(|status| status.replicas == replicas && status.ready_replicas.unwrap_or(0) == replicas)
    };
    cluster.until(&sets, "demo-postgres", &format!("{replicas} pods"), 120, so).await.map(drop)
}

/// Routes that disappear all at once, without a deleted customer, are an error and never reach pgbouncer.
async fn implausible_shrink(cluster: &Cluster, names: &[String]) -> Result<()> {
    // No controller restores the routes before the agents observe the change.
    cluster.scale("ahoi-pgbouncer", 0).await?;
    let outcome = without_routes(cluster, names).await;
    cluster.scale("ahoi-pgbouncer", 2).await?;
    outcome?;
    for name in names {
        let pools = cluster.of::<ConnectionPool>(&namespace_of(name));
        let back = |p: Option<&ConnectionPool>| {
            p.is_some_and(is_ready) && p.is_some_and(|p| p.status.as_ref().is_some_and(|s| s.route.is_some()))
        };
        cluster.until(&pools, name, "Ready with its route", 120, back).await?;
    }
    let healthy = |f: Option<&PgBouncer>| reports(f, |p| p.error.is_none());
    cluster.until(&cluster.of(ahoi_e2e::SYSTEM), "global", "no process has an error", 60, healthy).await.map(drop)
}

async fn without_routes(cluster: &Cluster, names: &[String]) -> Result<()> {
    let gone = Patch::Merge(json!({"status": {"route": null}}));
    for name in names {
        cluster.of::<ConnectionPool>(&namespace_of(name)).patch_status(name, &PatchParams::default(), &gone).await?;
    }
    let refused = |f: Option<&PgBouncer>| reports(f, |p| p.error.is_some());
    cluster.until(&cluster.of(ahoi_e2e::SYSTEM), "global", "every process keeps its routes", 30, refused).await?;
    for name in [&names[0], &names[CUSTOMERS - 1]] {
        cluster.pooled(name).await?.connect().await?.query_one("SELECT 1", &[]).await?;
    }
    Ok(())
}

fn reports(fleet: Option<&PgBouncer>, holds: impl Fn(&ProcessStatus) -> bool) -> bool {
    let processes = fleet.and_then(|f| f.status.as_ref()).map(|s| s.processes.as_slice()).unwrap_or_default();
    !processes.is_empty() && processes.iter().all(holds)
}

async fn one_customer(cluster: &Cluster) -> Result<()> {
    // Adopting data of an earlier customer would add two events.
    let features = json!({"database": {"enabled": true}});
    cluster.create_customer_with("big-client-0815", json!({"deletionPolicy": "Delete", "features": features})).await?;
    cluster.ready("big-client-0815").await?;
    cluster.delete_customer("big-client-0815").await?;
    settled(cluster).await?;
    let mark = Audit::mark()?;
    cluster.apply(MANIFEST).await?;
    cluster.ready("big-client-0815").await?;
    // Writes after Ready count as well.
    settled(cluster).await?;
    let writes = writes(mark.since()?);
    println!(
        "{} writes for the customer of the README, from apply until no writes follow:\n{}",
        writes.len(),
        table(&writes)
    );
    ensure!(writes.len() <= BUDGET, "{} writes, more than {BUDGET}", writes.len());
    cluster.delete_customer("big-client-0815").await
}

/// Waits until a sweep of the server has counted all databases. A controller that restarts before would write the count.
async fn counted(cluster: &Cluster) -> Result<()> {
    let databases = cluster.all::<Database>().list(&ListParams::default()).await?;
    let here = databases
        .iter()
        .filter(|database| database.status.as_ref().is_some_and(|status| status.server.as_deref() == Some("demo")));
    let promised = here.map(|database| database.spec.storage.bytes()).sum::<Result<i64, _>>()?;
    let counted_all = |server: Option<&DatabaseServer>| {
        server.and_then(|server| server.status.as_ref()?.allocated_bytes) == Some(promised)
    };
    cluster.until(&cluster.all(), "demo", "counts all databases", 150, counted_all).await.map(drop)
}

/// Waits until no controller has written for ten seconds.
async fn settled(_: &Cluster) -> Result<()> {
    let quiet = async {
        loop {
            let mark = Audit::mark()?;
            // The absence of writes needs time to pass.
            tokio::time::sleep(Duration::from_secs(10)).await;
            if writes(mark.since()?).is_empty() {
                return anyhow::Ok(());
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(300), quiet).await?
}

/// All controllers restart with all customers present, and write nothing.
async fn restart(cluster: &Cluster) -> Result<()> {
    let mark = Audit::mark()?;
    cluster.stop_all().await?;
    cluster.start_all().await?;
    // Includes two sweeps of the database controller after the change of leader.
    tokio::time::sleep(Duration::from_secs(60)).await;
    let requests = mark.since()?;
    let is_content = |r: &&Request| r.is_single_read() && r.object_ref.resource == "secrets";
    let contents: Vec<Request> = requests.iter().filter(is_content).cloned().collect();
    let writes = writes(requests);
    println!(
        "{} writes and {} reads of single Secrets at a restart of all controllers with {CUSTOMERS} customers\n{}{}",
        writes.len(),
        contents.len(),
        table(&writes),
        table(&contents)
    );
    ensure!(writes.is_empty(), "{} writes at a restart", writes.len());
    // Two controllers read the direct Secret, and one the pooled Secret. Some customers may be of another test.
    ensure!(contents.len() <= 3 * CUSTOMERS + 10, "{} reads of Secrets at a restart", contents.len());
    Ok(())
}

/// No requests in two idle minutes.
async fn no_requests_at_rest() -> Result<()> {
    let mark = Audit::mark()?;
    tokio::time::sleep(Duration::from_secs(120)).await;
    let requests = mark.since()?;
    let reads: Vec<Request> = requests.iter().filter(|r| r.is_single_read()).cloned().collect();
    let writes = writes(requests);
    println!(
        "{} writes and {} reads of single objects in two idle minutes with {CUSTOMERS} customers\n{}{}",
        writes.len(),
        reads.len(),
        table(&writes),
        table(&reads)
    );
    ensure!(writes.is_empty(), "{} writes at rest", writes.len());
    ensure!(reads.is_empty(), "{} reads of single objects at rest", reads.len());
    Ok(())
}
