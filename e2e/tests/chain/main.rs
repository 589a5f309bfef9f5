//! Controllers and children are missing: nothing is lost, everything converges, and the API accepts customers. These tests affect all
//! customers of the cluster, so they run one after the other in their own binary.

mod restored;

use std::time::{Duration, Instant};

use ahoi_api::{ConnectionPool, Database, PgBouncer, Scheduler};
use ahoi_e2e::Cluster;
use ahoi_e2e::controllers::controllers;
use ahoi_e2e::customers::summary;
use ahoi_reconcile::is_ready;
use anyhow::{Context as _, Result, ensure};
use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::ResourceExt;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kube::runtime::{WatchStreamExt as _, watcher};
use serde_json::json;

static ONE_AT_A_TIME: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

fn working() -> serde_json::Value {
    json!({"database": {"enabled": true}, "scheduler": {"enabled": true, "workers": 1}})
}

/// All replicas of each controller are killed while customers are created, changed and deleted.
#[tokio::test]
async fn killed_controllers_lose_no_change() -> Result<()> {
    let _alone = ONE_AT_A_TIME.lock().await;
    let cluster = Cluster::connect().await?;
    let kept = "chain-kept";
    cluster.create_customer(kept, working()).await?;
    cluster.ready(kept).await?;
    let client = cluster.pooled(kept).await?.connect().await?;
    client
        .batch_execute("DROP TABLE IF EXISTS kept; CREATE TABLE kept AS SELECT n FROM generate_series(1, 500) n")
        .await?;
    for controller in controllers() {
        let name = format!("chain-{}", controller.trim_start_matches("ahoi-"));
        cluster.create_customer(&name, working()).await?;
        cluster.kill(controller).await?;
        cluster.patch_spec(&cluster.customers(), kept, json!({"features": {"scheduler": {"workers": 2}}})).await?;
        cluster.ready(&name).await.with_context(|| format!("after {controller} was killed"))?;
        cluster.kill(controller).await?;
        cluster.delete_customer(&name).await.with_context(|| format!("deletion while {controller} is killed"))?;
        let rows: i64 = client.query_one("SELECT count(*) FROM kept", &[]).await?.get(0);
        ensure!(rows == 500, "{rows} of 500 rows after {controller} was killed");
    }
    let customer = cluster.ready(kept).await?;
    ensure!(summary(&customer) == "3/3");
    cluster.delete_customer(kept).await
}

/// Without controllers, the API server accepts and validates customers. The controllers catch up when they are back.
#[tokio::test]
async fn the_api_accepts_customers_without_controllers() -> Result<()> {
    let _alone = ONE_AT_A_TIME.lock().await;
    let cluster = Cluster::connect().await?;
    let (old, new, gone) = ("chain-old", "chain-new", "chain-gone");
    cluster.delete_customer(new).await?;
    for name in [old, gone] {
        cluster.create_customer(name, working()).await?;
    }
    for name in [old, gone] {
        cluster.ready(name).await?;
    }
    cluster.stop_all().await?;
    let outcome = while_stopped(&cluster, old, new, gone).await;
    cluster.start_all().await?;
    outcome?;

    ensure!(summary(&cluster.ready(new).await?) == "3/3");
    let customer = cluster.ready(old).await?;
    ensure!(summary(&customer) == "3/3");
    cluster.until_gone(&cluster.customers(), gone, 120).await?;
    // Deletions without a watch are noticed.
    let namespace = ahoi_api::namespace_of(old);
    let there =
        |d: Option<&Deployment>| d.is_some_and(|d| d.status.as_ref().is_some_and(|s| s.available_replicas == Some(3)));
    cluster
        .until(&cluster.of::<Deployment>(&namespace), &format!("{old}-worker"), "back, with three workers", 120, there)
        .await?;
    let policies = cluster.of::<NetworkPolicy>(&namespace).list(&ListParams::default()).await?;
    ensure!(policies.items.len() >= 2, "{} network policies", policies.items.len());
    for name in [old, new] {
        cluster.delete_customer(name).await?;
    }
    Ok(())
}

async fn while_stopped(cluster: &Cluster, old: &str, new: &str, gone: &str) -> Result<()> {
    cluster.create_customer(new, working()).await.context("creating a customer without controllers")?;
    let negative = json!({"features": {"scheduler": {"workers": -1}}});
    let refused = cluster.patch_spec(&cluster.customers(), new, negative).await.err();
    let refused = refused.context("an invalid customer is accepted without controllers")?;
    ensure!(format!("{refused:#}").contains("spec.features.scheduler.workers"), "{refused:#}");
    cluster.patch_spec(&cluster.customers(), old, json!({"features": {"scheduler": {"workers": 3}}})).await?;
    cluster.customers().delete(gone, &DeleteParams::default()).await?;
    let namespace = ahoi_api::namespace_of(old);
    cluster.of::<Deployment>(&namespace).delete(&format!("{old}-worker"), &DeleteParams::default()).await?;
    for policy in cluster.of::<NetworkPolicy>(&namespace).list(&ListParams::default()).await? {
        cluster.of::<NetworkPolicy>(&namespace).delete(&policy.name_any(), &DeleteParams::default()).await?;
    }
    // The pool serves without controllers.
    cluster.pooled(old).await?.connect().await?.query_one("SELECT 1", &[]).await?;
    Ok(())
}

/// Manually deleted children are recreated, and the data is kept.
#[tokio::test]
async fn deleted_children_are_recreated() -> Result<()> {
    let _alone = ONE_AT_A_TIME.lock().await;
    let cluster = Cluster::connect().await?;
    let name = "chain-children";
    cluster.create_customer(name, working()).await?;
    cluster.ready(name).await?;
    let client = cluster.direct(name).await?.connect().await?;
    client
        .batch_execute("DROP TABLE IF EXISTS kept; CREATE TABLE kept AS SELECT n FROM generate_series(1, 500) n")
        .await?;
    drop(client);
    let namespace = ahoi_api::namespace_of(name);

    async fn back<K>(cluster: &Cluster, api: kube::Api<K>, name: &str) -> Result<()>
    where
        K: ahoi_reconcile::Conditioned,
    {
        let uid = api.get(name).await?.uid();
        api.delete(name, &DeleteParams::default()).await?;
        let again = |o: Option<&K>| o.is_some_and(|o| o.uid() != uid && is_ready(o));
        cluster.until(&api, name, "recreated and Ready", 120, again).await.map(drop)
    }
    back(&cluster, cluster.of::<Scheduler>(&namespace), name).await?;
    back(&cluster, cluster.of::<ConnectionPool>(&namespace), name).await?;
    back(&cluster, cluster.of::<Database>(&namespace), name).await?;
    cluster.ready(name).await?;
    // The deletion of the Database closed its login, which has a new password now.
    let client = cluster.pooled_again(name, 60).await?;
    let rows: i64 = client.query_one("SELECT count(*) FROM kept", &[]).await?.get(0);
    ensure!(rows == 500, "{rows} of 500 rows after every child was deleted once");
    cluster.delete_customer(name).await
}

/// A route that pgbouncer cannot load never reaches it, is reported on the fleet, and does not affect other customers. The
/// controller that would correct it is stopped meanwhile.
#[tokio::test]
async fn an_invalid_route_never_reaches_pgbouncer() -> Result<()> {
    let _alone = ONE_AT_A_TIME.lock().await;
    let cluster = Cluster::connect().await?;
    let (bad, good) = ("chain-bad", "chain-good");
    for name in [bad, good] {
        cluster.create_customer(name, json!({"database": {"enabled": true}})).await?;
    }
    for name in [bad, good] {
        cluster.ready(name).await?;
    }
    cluster.scale("ahoi-pgbouncer", 0).await?;
    let outcome = with_a_bad_route(&cluster, bad, good).await;
    cluster.scale("ahoi-pgbouncer", 2).await?;
    outcome?;
    let pools = cluster.of::<ConnectionPool>(&ahoi_api::namespace_of(bad));
    cluster.patch_spec(&pools, bad, json!({"poolSize": 5})).await?;
    cluster.until(&pools, bad, "Ready again", 60, |p: Option<&ConnectionPool>| p.is_some_and(is_ready)).await?;
    for name in [bad, good] {
        cluster.pooled(name).await?.connect().await?.query_one("SELECT 1", &[]).await?;
        cluster.delete_customer(name).await?;
    }
    Ok(())
}

async fn with_a_bad_route(cluster: &Cluster, bad: &str, good: &str) -> Result<()> {
    let pools = cluster.of::<ConnectionPool>(&ahoi_api::namespace_of(bad));
    let evil = json!({"status": {"route": {"database": "x = host=evil\n[pgbouncer]\nadmin_users=*"}}});
    pools.patch_status(bad, &PatchParams::default(), &Patch::Merge(&evil)).await?;
    let refused = |f: Option<&PgBouncer>| {
        let processes = f.and_then(|f| f.status.as_ref()).map(|s| s.processes.as_slice()).unwrap_or_default();
        !processes.is_empty()
            && processes.iter().all(|p| p.refused.iter().any(|r| r.pool.ends_with(&format!("/{bad}"))))
    };
    cluster
        .until(&cluster.of::<PgBouncer>(ahoi_e2e::SYSTEM), "global", "every process refuses the route", 30, refused)
        .await?;
    cluster.pooled(good).await?.connect().await?.query_one("SELECT 1", &[]).await?;
    Ok(())
}

/// A customer is routable in all processes within 2 seconds after its database is Ready. Only this test asserts a time, because it
/// is a requirement.
#[tokio::test]
async fn a_new_customer_is_routable_at_once() -> Result<()> {
    let _alone = ONE_AT_A_TIME.lock().await;
    let cluster = Cluster::connect().await?;
    let name = "pool-new";
    cluster.delete_customer(name).await?;
    let namespace = ahoi_api::namespace_of(name);
    // The watch starts before the customer is created.
    let databases = cluster.all::<Database>();
    let watched = watcher(databases, watcher::Config::default().fields(&format!("metadata.namespace={namespace}")));
    let ready = tokio::spawn(async move {
        let mut events = watched.default_backoff().applied_objects().boxed();
        while let Some(database) = events.try_next().await? {
            if is_ready(&database) {
                return Ok(Instant::now());
            }
        }
        anyhow::bail!("the watch of databases ended")
    });
    cluster.create_customer(name, json!({"database": {"enabled": true}})).await?;
    let exists = tokio::time::timeout(Duration::from_secs(120), ready).await???;
    let pools = cluster.of::<ConnectionPool>(&namespace);
    cluster.until(&pools, name, "Ready", 60, |p: Option<&ConnectionPool>| p.is_some_and(is_ready)).await?;
    let took = exists.elapsed();
    println!("routable in every process {took:?} after its database was Ready");
    ensure!(took < Duration::from_secs(2), "routable after {took:?}");
    cluster.pooled(name).await?.connect().await?.query_one("SELECT 1", &[]).await?;
    cluster.delete_customer(name).await
}
