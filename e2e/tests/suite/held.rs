//! An invalid part of the spec does not block the rest of the spec.

use ahoi_api::{Customer, Database, Plan, PlanSpec, Scheduler, namespace_of};
use ahoi_e2e::Cluster;
use ahoi_e2e::messages::contains_all;
use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::rbac::v1::RoleBinding;
use kube::api::PostParams;
use serde_json::{Value, json};

/// Seconds until a change that depends on nothing else is applied.
const SOON: u64 = 60;

async fn plan(cluster: &Cluster, name: &str, spec: Value) -> Result<()> {
    let plans = cluster.all::<Plan>();
    cluster.delete(&plans, name, 60).await?;
    let spec: PlanSpec = serde_json::from_value(spec)?;
    plans.create(&PostParams::default(), &Plan::new(name, spec)).await?;
    Ok(())
}

/// Creates a Plan with the image of the demo's Plan, and limits of 10gb and three workers.
async fn limited(cluster: &Cluster, name: &str) -> Result<()> {
    let default = cluster.all::<Plan>().get("default").await?;
    let image = default.spec.features.scheduler.and_then(|s| s.image).context("the default Plan has no image")?;
    let features = json!({"database": {"enabled": true, "storage": "2gb"},
        "scheduler": {"enabled": true, "workers": 1, "image": image}});
    plan(cluster, name, json!({"features": features, "limits": {"maxWorkers": 3, "maxStorage": "10gb"}})).await
}

fn message(customer: &Customer) -> String {
    let conditions = customer.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    conditions.iter().find(|c| c.type_ == "Ready").map(|c| c.message.clone()).unwrap_or_default()
}

fn assert_says(customer: &Customer, words: &[&str]) -> Result<()> {
    contains_all(&message(customer), words)
}

/// Waits until the RoleBinding is deleted and no worker runs.
async fn revoked_and_stopped(cluster: &Cluster, name: &str) -> Result<()> {
    let namespace = namespace_of(name);
    cluster.until_gone(&cluster.of::<RoleBinding>(&namespace), "customer-admin", SOON).await?;
    let stopped = |d: Option<&Deployment>| {
        d.is_some_and(|d| d.spec.as_ref().is_some_and(|s| s.replicas == Some(0)))
            && d.and_then(|d| d.status.as_ref()?.replicas).unwrap_or(0) == 0
    };
    let deployments = cluster.of::<Deployment>(&namespace);
    cluster.until(&deployments, &format!("{name}-worker"), "no worker", SOON, stopped).await.map(drop)
}

fn groups() -> Value {
    json!([{"group": "held-admins", "role": "Admin"}])
}

/// Access is revoked and the workers stop although another field exceeds the Plan.
#[tokio::test]
async fn a_customer_over_its_plan_is_revoked_and_suspended() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let name = "held-over";
    cluster.delete_customer(name).await?;
    limited(&cluster, name).await?;
    cluster.create_customer_with(name, json!({"plan": name, "groups": groups()})).await?;
    cluster.ready(name).await?;
    cluster.of::<RoleBinding>(&namespace_of(name)).get("customer-admin").await?;

    let over = json!({"database": {"storage": "20tb"}, "scheduler": {"workers": 9}});
    let spec = json!({"groups": [], "runPolicy": "Suspended", "features": over});
    cluster.patch_spec(&cluster.customers(), name, spec).await?;
    let stalled = cluster.condition(name, "Stalled", "True", "ExceedsPlan").await?;
    let words = ["storage is 20tb", "at most 10gb", "stays 2gb", "workers is 9", "at most 3", "the rest of the spec"];
    assert_says(&stalled, &words)?;
    revoked_and_stopped(&cluster, name).await?;
    let status = stalled.status.context("no status")?;
    ensure!(status.storage_bytes == Some(2_000_000_000), "in force are {:?}", status.storage_bytes);
    let databases = cluster.of::<Database>(&namespace_of(name));
    ensure!(databases.get(name).await?.spec.storage == ahoi_api::Size::from("2gb"));

    // A disabled feature exceeds nothing, and is removed although another feature exceeds the Plan.
    cluster.patch_spec(&cluster.customers(), name, json!({"features": {"scheduler": {"enabled": false}}})).await?;
    cluster.until_gone(&cluster.of::<Scheduler>(&namespace_of(name)), name, SOON).await?;
    cluster.delete_customer(name).await?;
    cluster.delete(&cluster.all::<Plan>(), name, 60).await
}

/// Access is revoked and the workers stop although the Plan does not exist.
#[tokio::test]
async fn a_customer_without_its_plan_is_revoked_and_suspended() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let name = "held-planless";
    cluster.delete_customer(name).await?;
    limited(&cluster, name).await?;
    cluster.create_customer_with(name, json!({"plan": name, "groups": groups()})).await?;
    cluster.ready(name).await?;

    cluster.patch_spec(&cluster.customers(), name, json!({"plan": "no-such-plan"})).await?;
    let stalled = cluster.condition(name, "Stalled", "True", "PlanNotFound").await?;
    assert_says(&stalled, &["spec.plan names the Plan no-such-plan", "create it", "spec.groups", "stays as it is"])?;
    let schedulers = cluster.of::<Scheduler>(&namespace_of(name));
    ensure!(schedulers.get(name).await?.spec.workers == 1, "a missing Plan changed the workers");

    let spec = json!({"groups": [], "runPolicy": "Suspended", "features": {"scheduler": {"workers": 2}}});
    cluster.patch_spec(&cluster.customers(), name, spec).await?;
    revoked_and_stopped(&cluster, name).await?;
    ensure!(schedulers.get(name).await?.spec.workers == 1, "the workers changed without a Plan");
    let databases = cluster.of::<Database>(&namespace_of(name));
    cluster.patch_spec(&cluster.customers(), name, json!({"features": {"database": {"enabled": false}}})).await?;
    cluster.until_gone(&databases, name, SOON).await?;

    // When the Plan exists again, the other changes are applied.
    let spec = json!({"plan": name, "runPolicy": "Running", "features": {"database": {"enabled": true}}});
    let changed = cluster.change(name, spec).await?;
    ensure!(schedulers.get(name).await?.spec.workers == 2);
    ensure!(changed.status.and_then(|s| s.storage_bytes) == Some(2_000_000_000));
    cluster.delete_customer(name).await?;
    cluster.delete(&cluster.all::<Plan>(), name, 60).await
}

/// Storage beyond the Plan can be corrected to any valid value.
#[tokio::test]
async fn denied_storage_can_be_corrected() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let name = "held-storage";
    cluster.delete_customer(name).await?;
    limited(&cluster, name).await?;
    let spec = json!({"plan": name, "features": {"database": {"storage": "1Gi"}, "scheduler": {"enabled": false}}});
    cluster.create_customer_with(name, spec).await?;
    cluster.ready(name).await?;
    let storage = |size: Value| json!({"features": {"database": {"storage": size}}});
    let in_force = |customer: Customer| customer.status.and_then(|status| status.storage_bytes);

    cluster.patch_spec(&cluster.customers(), name, storage(json!("20tb"))).await?;
    let stalled = cluster.condition(name, "Stalled", "True", "ExceedsPlan").await?;
    assert_says(&stalled, &["set it to at most 10gb", "stays 1Gi"])?;
    ensure!(in_force(stalled) == Some(1 << 30), "status.storageBytes is not the storage in force");

    let error = cluster.patch_spec(&cluster.customers(), name, storage(json!("1gb"))).await.err();
    let refusal = error.map(|error| error.to_string()).unwrap_or_default();
    ensure!(refusal.contains("spec.features.database.storage is 1gb, less than the database has"), "{refusal:?}");
    let null = cluster.change(name, storage(Value::Null)).await?;
    ensure!(in_force(null) == Some(1 << 30), "removing the field changed the storage in force");
    ensure!(in_force(cluster.change(name, storage(json!("5gb"))).await?) == Some(5_000_000_000));

    // When unset, the storage grows with the default of the Plan, and does not shrink with it.
    cluster.change(name, storage(Value::Null)).await?;
    let grown =
        |bytes: i64| move |c: Option<&Customer>| c.and_then(|c| c.status.as_ref()?.storage_bytes) == Some(bytes);
    cluster.patch_spec(&cluster.all::<Plan>(), name, storage(json!("8gb"))).await?;
    cluster.until(&cluster.customers(), name, "storage of the Plan", SOON, grown(8_000_000_000)).await?;
    cluster.patch_spec(&cluster.all::<Plan>(), name, storage(json!("3gb"))).await?;
    let changed = cluster.change(name, json!({"displayName": "after the Plan was lowered"})).await?;
    ensure!(in_force(changed) == Some(8_000_000_000));
    cluster.delete_customer(name).await?;
    cluster.delete(&cluster.all::<Plan>(), name, 60).await
}
