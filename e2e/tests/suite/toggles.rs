//! Features are enabled and disabled on a running customer.

use ahoi_api::{Database, Plan, PlanSpec, Scheduler};
use ahoi_e2e::Cluster;
use ahoi_e2e::customers::{READY, has_condition, summary};
use ahoi_e2e::refusal::{BY_POOLER, NO_LOGIN, refused};
use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::apps::v1::Deployment;
use kube::ResourceExt;
use kube::api::{DeleteParams, PostParams};
use serde_json::{Value, json};

async fn available(cluster: &Cluster, customer: &str) -> Result<i32> {
    let deployments = cluster.of::<Deployment>(&ahoi_api::namespace_of(customer));
    let deployment = deployments.get(&format!("{customer}-worker")).await?;
    Ok(deployment.status.and_then(|s| s.available_replicas).unwrap_or(0))
}

async fn workers(cluster: &Cluster, customer: &str, workers: i32) -> Result<()> {
    let changed = cluster.change(customer, json!({"features": {"scheduler": {"workers": workers}}})).await?;
    ensure!(has_condition(&changed, "SchedulerReady", "True", "Ready"));
    let ready = available(cluster, customer).await?;
    ensure!(ready == workers, "Ready with {ready} of {workers} workers");
    Ok(())
}

#[tokio::test]
async fn workers_follow_the_spec() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let name = "toggle-workers";
    let features = json!({"database": {"enabled": true}, "scheduler": {"enabled": true, "workers": 4}});
    cluster.create_customer(name, features).await?;
    cluster.ready(name).await?;
    ensure!(available(&cluster, name).await? == 4);
    workers(&cluster, name, 6).await?;
    workers(&cluster, name, 0).await?;

    let off = cluster.change(name, json!({"features": {"scheduler": {"enabled": false}}})).await?;
    ensure!(summary(&off) == "2/2", "{}", summary(&off));
    let conditions = off.status.context("no status")?.conditions;
    ensure!(conditions.iter().all(|c| c.type_ != "SchedulerReady"), "the condition of a disabled feature remains");
    let namespace = ahoi_api::namespace_of(name);
    ensure!(cluster.of::<Scheduler>(&namespace).get_opt(name).await?.is_none());
    cluster.until_gone(&cluster.of::<Deployment>(&namespace), &format!("{name}-worker"), 60).await?;

    cluster.change(name, json!({"features": {"scheduler": {"enabled": true, "workers": 2}}})).await?;
    ensure!(available(&cluster, name).await? == 2);
    cluster.delete_customer(name).await
}

#[tokio::test]
async fn an_unavailable_feature_is_reported_and_blocks_no_other() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let name = "toggle-webhooks";
    cluster.create_customer(name, json!({"database": {"enabled": true}, "webhooks": {"enabled": true}})).await?;
    let customer = cluster.ready(name).await?;
    ensure!(has_condition(&customer, "WebhooksReady", "False", "NotAvailable"));
    ensure!(has_condition(&customer, "DatabaseReady", "True", "Ready"));
    ensure!(summary(&customer) == "2/3", "{}", summary(&customer));
    cluster.delete_customer(name).await
}

#[tokio::test]
async fn disabling_the_database_keeps_its_data() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let name = "toggle-database";
    cluster.create_customer(name, json!({"database": {"enabled": true}})).await?;
    cluster.ready(name).await?;
    let before = cluster.direct(name).await?;
    let client = before.connect().await?;
    client
        .batch_execute(
            "DROP TABLE IF EXISTS kept; CREATE TABLE kept (n int); INSERT INTO kept SELECT generate_series(1, 100)",
        )
        .await?;
    drop(client);

    let off = cluster.change(name, json!({"features": {"database": {"enabled": false}}})).await?;
    ensure!(summary(&off) == "0/0", "{}", summary(&off));
    ensure!(cluster.of::<Database>(&ahoi_api::namespace_of(name)).get_opt(name).await?.is_none());
    refused(before.connect().await, NO_LOGIN, "is not permitted to log in", "the login of a database that is off")?;

    cluster.change(name, json!({"features": {"database": {"enabled": true}}})).await?;
    let client = cluster.pooled(name).await?.connect().await?;
    let rows: i64 = client.query_one("SELECT count(*) FROM kept", &[]).await?.get(0);
    ensure!(rows == 100, "{rows} of 100 rows");
    cluster.delete_customer(name).await
}

#[tokio::test]
async fn without_a_pool_workers_connect_directly() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let name = "toggle-pool";
    let features = json!({"database": {"enabled": true}, "scheduler": {"enabled": true, "workers": 1}});
    cluster.create_customer(name, features).await?;
    cluster.ready(name).await?;
    let binding = async || -> Result<String> {
        let scheduler = cluster.of::<Scheduler>(&ahoi_api::namespace_of(name)).get(name).await?;
        Ok(scheduler.spec.binding.context("no binding")?.name)
    };
    ensure!(binding().await? == "toggle-pool-pool");
    cluster.change(name, json!({"features": {"connectionPool": {"enabled": false}}})).await?;
    ensure!(binding().await? == "toggle-pool-database");
    let client = cluster.direct(name).await?.connect().await?;
    client.batch_execute("INSERT INTO tasks (payload) VALUES ('direct')").await?;
    finished(&client, "direct").await?;

    cluster.change(name, json!({"features": {"connectionPool": {"enabled": true}}})).await?;
    ensure!(binding().await? == "toggle-pool-pool");
    cluster.delete_customer(name).await
}

async fn finished(client: &tokio_postgres::Client, payload: &str) -> Result<()> {
    let done = async {
        loop {
            let query = "SELECT count(*) FROM tasks WHERE payload = $1 AND finished_at IS NOT NULL";
            if client.query_one(query, &[&payload]).await?.get::<_, i64>(0) > 0 {
                return anyhow::Ok(());
            }
            // PostgreSQL has no watch. The time-out around this loop bounds it.
            tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(60), done)
        .await
        .context("the task is not finished after a minute")?
}

async fn plan(cluster: &Cluster, name: &str, spec: Value) -> Result<()> {
    let plans = cluster.all::<Plan>();
    cluster.delete(&plans, name, 30).await?;
    let spec: PlanSpec = serde_json::from_value(spec)?;
    plans.create(&PostParams::default(), &Plan::new(name, spec)).await?;
    Ok(())
}

#[tokio::test]
async fn an_omitted_feature_follows_the_plan() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let default = cluster.all::<Plan>().get("default").await?;
    let image = default.spec.features.scheduler.and_then(|s| s.image).context("the default Plan has no image")?;
    let spec = json!({"features": {"database": {"enabled": true, "storage": "1gb"}, "scheduler": {"enabled": true, "workers": 1, "image": image}}});
    plan(&cluster, "toggle-plan", spec).await?;
    for name in ["toggle-plan-a", "toggle-plan-b"] {
        cluster.create_customer_with(name, json!({"plan": "toggle-plan"})).await?;
    }
    for name in ["toggle-plan-a", "toggle-plan-b"] {
        let customer = cluster.ready(name).await?;
        ensure!(summary(&customer) == "3/3", "{}", summary(&customer));
    }
    // A change of the Plan is applied to its customers.
    cluster
        .patch_spec(&cluster.all::<Plan>(), "toggle-plan", json!({"features": {"scheduler": {"workers": 2}}}))
        .await?;
    for name in ["toggle-plan-a", "toggle-plan-b"] {
        let schedulers = cluster.of::<Scheduler>(&ahoi_api::namespace_of(name));
        let rolled = |s: Option<&Scheduler>| s.and_then(|s| s.status.as_ref()?.ready_workers) == Some(2);
        cluster.until(&schedulers, name, "two workers by the Plan", READY, rolled).await?;
    }
    // A field that exceeds the Plan is Stalled, and the workers stay unchanged.
    cluster.patch_spec(&cluster.all::<Plan>(), "toggle-plan", json!({"limits": {"maxWorkers": 3}})).await?;
    cluster
        .patch_spec(&cluster.customers(), "toggle-plan-a", json!({"features": {"scheduler": {"workers": 9}}}))
        .await?;
    let stalled = cluster.condition("toggle-plan-a", "Stalled", "True", "ExceedsPlan").await?;
    let message =
        stalled.status.context("no status")?.conditions.into_iter().find(|c| c.type_ == "Ready").map(|c| c.message);
    ensure!(message.as_deref().is_some_and(|m| m.contains("scheduler.workers")), "{message:?} does not name the field");
    ensure!(available(&cluster, "toggle-plan-a").await? == 2, "a refused change changed the workers");
    for name in ["toggle-plan-a", "toggle-plan-b"] {
        cluster.delete_customer(name).await?;
    }
    cluster.delete(&cluster.all::<Plan>(), "toggle-plan", 30).await
}

#[tokio::test]
async fn run_policy_suspended_stops_workers_and_keeps_the_data() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let name = "toggle-suspend";
    let jobs = json!([{"name": "report", "schedule": "0 3 * * *", "command": ["ahoi-demo-worker", "report"]}]);
    let features = json!({"database": {"enabled": true}, "scheduler": {"enabled": true, "workers": 2, "jobs": jobs}});
    cluster.create_customer(name, features).await?;
    cluster.ready(name).await?;
    let pooled = cluster.pooled(name).await?;
    pooled.connect().await?.batch_execute("DROP TABLE IF EXISTS kept; CREATE TABLE kept AS SELECT 1 AS n").await?;

    cluster.change(name, json!({"runPolicy": "Suspended"})).await?;
    ensure!(available(&cluster, name).await? == 0, "workers run while suspended");
    let crons = cluster.of::<k8s_openapi::api::batch::v1::CronJob>(&ahoi_api::namespace_of(name));
    ensure!(crons.get("report").await?.spec.and_then(|s| s.suspend) == Some(true), "jobs run while suspended");
    refused(pooled.connect().await, BY_POOLER, "", "the route while suspended")?;

    cluster.change(name, json!({"runPolicy": "Running"})).await?;
    ensure!(available(&cluster, name).await? == 2);
    let rows: i64 = pooled.connect().await?.query_one("SELECT count(*) FROM kept", &[]).await?.get(0);
    ensure!(rows == 1);
    cluster.delete_customer(name).await
}

#[tokio::test]
async fn reconcile_policy_paused_changes_nothing() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let name = "toggle-paused";
    cluster
        .create_customer(name, json!({"database": {"enabled": true}, "scheduler": {"enabled": true, "workers": 1}}))
        .await?;
    cluster.ready(name).await?;
    let paused = json!({"reconcilePolicy": "Paused", "features": {"scheduler": {"workers": 3}}});
    cluster.patch_spec(&cluster.customers(), name, paused).await?;
    cluster.condition(name, "Paused", "True", "ReconcilePolicy").await?;
    cluster.condition(name, "Ready", "Unknown", "Paused").await?;
    let schedulers = cluster.of::<Scheduler>(&ahoi_api::namespace_of(name));
    ensure!(schedulers.get(name).await?.spec.workers == 1, "a paused customer was changed");
    // A deletion does not remove it either.
    cluster.customers().delete(name, &DeleteParams::default()).await?;
    cluster.condition(name, "Ready", "False", "Paused").await?;
    ensure!(available(&cluster, name).await? == 1, "a paused customer was removed");
    cluster.patch_spec(&cluster.customers(), name, json!({"reconcilePolicy": "Normal"})).await?;
    cluster.delete_customer(name).await
}

/// An object whose name conflicts with a feature is left unchanged and reported. The other features work.
#[tokio::test]
async fn a_name_conflict_blocks_only_its_own_feature() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let name = "toggle-conflict";
    cluster.create_customer(name, json!({"scheduler": {"enabled": true, "workers": 1}})).await?;
    cluster.ready(name).await?;
    let databases = cluster.of::<Database>(&ahoi_api::namespace_of(name));
    let foreign = Database::new(name, serde_json::from_value(json!({"storage": "1gb"}))?);
    let uid = databases.create(&PostParams::default(), &foreign).await?.uid();
    let features = json!({"database": {"enabled": true}, "scheduler": {"workers": 2}});
    cluster.patch_spec(&cluster.customers(), name, json!({ "features": features })).await?;
    let stalled = cluster.condition(name, "DatabaseReady", "False", "NameConflict").await?;
    ensure!(has_condition(&stalled, "Stalled", "True", "NameConflict"));
    let deployments = cluster.of::<Deployment>(&ahoi_api::namespace_of(name));
    let two = |d: Option<&Deployment>| d.and_then(|d| d.spec.as_ref()).and_then(|s| s.replicas) == Some(2);
    cluster.until(&deployments, &format!("{name}-worker"), "the workers follow the spec", 60, two).await?;
    ensure!(databases.get(name).await?.uid() == uid, "an object of another owner was replaced");
    cluster.delete(&databases, name, 60).await?;
    cluster.ready(name).await?;
    ensure!(available(&cluster, name).await? == 2);
    cluster.delete_customer(name).await
}
