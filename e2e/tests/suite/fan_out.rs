//! The manifest of the README becomes a customer with working features.

use std::collections::BTreeSet;
use std::time::Duration;

use ahoi_api::{ConnectionPool, Customer, CustomerNamespace, Database, FeatureState, Scheduler};
use ahoi_e2e::Cluster;
use ahoi_e2e::customers::{has_condition, summary};
use ahoi_reconcile::is_ready;
use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{LimitRange, Namespace, Pod, ResourceQuota, Secret};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::ListParams;
use kube::{Resource, ResourceExt};

const NAME: &str = "big-client-0815";
const NAMESPACE: &str = "customer-big-client-0815";
const MANIFEST: &str = r#"
apiVersion: "internal.example.com/v1"
kind: Customer
metadata:
  name: big-client-0815
spec:
  features:
    database:  {enabled: true, storage: 256gb}
    scheduler: {enabled: true, workers: 4}
    webhooks:  {enabled: false}
"#;

#[tokio::test]
async fn the_readme_manifest_becomes_ready() -> Result<()> {
    let cluster = Cluster::connect().await?;
    cluster.delete_customer(NAME).await?;
    cluster.apply(MANIFEST).await?;

    // Users and pipelines wait with kubectl.
    cluster.kubectl(&["wait", "--for=condition=Ready", "customer/big-client-0815", "--timeout=180s"], "").await?;
    let customer = cluster.ready(NAME).await?;
    status_is_truthful(&customer)?;
    columns_and_explanations(&cluster).await?;
    children_are_there(&cluster).await?;
    every_process_is_a_field_manager(&cluster).await?;
    workers_are_restricted(&cluster).await?;
    tasks_are_finished(&cluster).await?;
    cluster.delete_customer(NAME).await
}

fn status_is_truthful(customer: &Customer) -> Result<()> {
    let status = customer.status.as_ref().context("no status")?;
    ensure!(summary(customer) == "3/3", "summary is {}", summary(customer));
    ensure!(status.namespace.as_deref() == Some(NAMESPACE));
    ensure!(status.storage_bytes == Some(256_000_000_000), "storage is {:?}", status.storage_bytes);
    for type_ in ["Ready", "NamespaceReady", "DatabaseReady", "ConnectionPoolReady", "SchedulerReady"] {
        ensure!(has_condition(customer, type_, "True", "Ready"), "{type_} is not True in {:?}", status.conditions);
    }
    let types: BTreeSet<&str> = status.conditions.iter().map(|c| c.type_.as_str()).collect();
    // Five conditions of the Customer, and one each of its Database and its Scheduler.
    ensure!(
        types.contains("StorageQuotaOk") && types.contains("JobsHealthy"),
        "conditions of children are missing: {types:?}"
    );
    ensure!(types.len() == 7, "conditions of disabled features or of a rollout remain: {types:?}");
    let state = |name| status.features.iter().find(|f| f.name == name).map(|f| f.state);
    ensure!(state("database") == Some(FeatureState::Ready));
    ensure!(state("webhooks") == Some(FeatureState::Disabled));
    Ok(())
}

async fn columns_and_explanations(cluster: &Cluster) -> Result<()> {
    let table = cluster.kubectl(&["get", "cust", NAME], "").await?;
    let mut lines = table.lines();
    let header: Vec<&str> = lines.next().unwrap_or_default().split_whitespace().collect();
    ensure!(
        header == ["NAME", "PLAN", "NAMESPACE", "SERVER", "FEATURES", "READY", "SINCE", "STATUS", "AGE"],
        "{table}"
    );
    let row = lines.next().unwrap_or_default();
    for word in [NAME, "default", NAMESPACE, "demo", " 3 ", "True", "all features are ready"] {
        ensure!(row.contains(word), "{word} is missing in {table}");
    }
    let explained = cluster.kubectl(&["explain", "customer.spec.features"], "").await?;
    for word in ["database", "connectionPool", "scheduler", "webhooks", "previews", "Plan"] {
        ensure!(explained.contains(word), "{word} is missing in {explained}");
    }
    let ahoi = cluster.kubectl(&["get", "ahoi", "-A", "-o", "name"], "").await?;
    ensure!(ahoi.contains("scheduler.internal.example.com/big-client-0815"), "{ahoi}");
    Ok(())
}

async fn children_are_there(cluster: &Cluster) -> Result<()> {
    let owner = cluster.customers().get(NAME).await?.uid().context("no uid")?;
    fn owned_and_ready<K: ahoi_reconcile::Conditioned>(child: &K, owner: &str) -> Result<()> {
        let name = format!("{} {}", K::kind(&()), child.name_any());
        ensure!(is_ready(child), "{name} is not ready");
        let controller = child.owner_references().iter().find(|o| o.controller == Some(true));
        ensure!(controller.is_some_and(|o| o.uid == owner), "{name} is not controlled by the Customer");
        Ok(())
    }
    owned_and_ready(&cluster.all::<CustomerNamespace>().get(NAME).await?, &owner)?;
    owned_and_ready(&cluster.of::<Database>(NAMESPACE).get(NAME).await?, &owner)?;
    owned_and_ready(&cluster.of::<ConnectionPool>(NAMESPACE).get(NAME).await?, &owner)?;
    owned_and_ready(&cluster.of::<Scheduler>(NAMESPACE).get(NAME).await?, &owner)?;

    let namespace = cluster.all::<Namespace>().get(NAMESPACE).await?;
    ensure!(namespace.owner_references().is_empty(), "a core Namespace must not be garbage-collected");
    let count = async |n: usize, kind: &str, at_least: usize| {
        ensure!(n >= at_least, "{n} {kind} in {NAMESPACE}");
        Ok(())
    };
    count(cluster.of::<ResourceQuota>(NAMESPACE).list(&ListParams::default()).await?.items.len(), "ResourceQuotas", 1)
        .await?;
    count(cluster.of::<LimitRange>(NAMESPACE).list(&ListParams::default()).await?.items.len(), "LimitRanges", 1)
        .await?;
    count(cluster.of::<NetworkPolicy>(NAMESPACE).list(&ListParams::default()).await?.items.len(), "NetworkPolicies", 2)
        .await?;
    count(cluster.of::<PodDisruptionBudget>(NAMESPACE).list(&ListParams::default()).await?.items.len(), "budgets", 1)
        .await?;
    for name in ["big-client-0815-database", "big-client-0815-pool"] {
        let secret = cluster.of::<Secret>(NAMESPACE).get(name).await?;
        ensure!(secret.type_.as_deref() == Some(ahoi_api::BINDING_SECRET_TYPE));
        let keys: BTreeSet<String> = secret.data.unwrap_or_default().into_keys().collect();
        for key in ["type", "host", "port", "database", "username", "password", "uri"] {
            ensure!(keys.contains(key), "{name} has no {key}");
        }
    }
    Ok(())
}

/// Each process writes with its own field manager.
async fn every_process_is_a_field_manager(cluster: &Cluster) -> Result<()> {
    let manager = |meta: &kube::core::ObjectMeta| -> BTreeSet<String> {
        meta.managed_fields.iter().flatten().filter_map(|f| f.manager.clone()).collect()
    };
    let database = manager(cluster.of::<Database>(NAMESPACE).get(NAME).await?.meta());
    ensure!(database == BTreeSet::from(["ahoi-customer".into(), "ahoi-database".into()]), "{database:?}");
    let pool = manager(cluster.of::<ConnectionPool>(NAMESPACE).get(NAME).await?.meta());
    ensure!(pool == BTreeSet::from(["ahoi-customer".into(), "ahoi-pgbouncer".into()]), "{pool:?}");
    let scheduler = manager(cluster.of::<Scheduler>(NAMESPACE).get(NAME).await?.meta());
    ensure!(scheduler == BTreeSet::from(["ahoi-customer".into(), "ahoi-scheduler".into()]), "{scheduler:?}");
    let namespace = manager(cluster.all::<CustomerNamespace>().get(NAME).await?.meta());
    ensure!(namespace == BTreeSet::from(["ahoi-customer".into(), "ahoi-namespace".into()]), "{namespace:?}");
    Ok(())
}

async fn workers_are_restricted(cluster: &Cluster) -> Result<()> {
    let deployments = cluster.of::<Deployment>(NAMESPACE);
    let available = deployments.get("big-client-0815-worker").await?.status.and_then(|s| s.available_replicas);
    ensure!(available == Some(4), "{available:?} workers are available");
    let pods = cluster.of::<Pod>(NAMESPACE).list(&ListParams::default()).await?;
    ensure!(pods.items.len() == 4, "{} pods", pods.items.len());
    for pod in pods {
        let spec = pod.spec.context("a pod without a spec")?;
        ensure!(spec.automount_service_account_token == Some(false), "the worker has a token of the API server");
        ensure!(spec.security_context.and_then(|s| s.run_as_non_root) == Some(true));
        for container in spec.containers {
            let security = container.security_context.context("no security context")?;
            ensure!(security.read_only_root_filesystem == Some(true));
            ensure!(security.allow_privilege_escalation == Some(false));
        }
    }
    Ok(())
}

/// The test inserts tasks through the pool, and the workers finish them through the same pool.
async fn tasks_are_finished(cluster: &Cluster) -> Result<()> {
    let client = cluster.pooled(NAME).await?.connect().await?;
    client.batch_execute("INSERT INTO tasks (payload) SELECT 'e2e ' || n FROM generate_series(1, 200) n").await?;
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    loop {
        let row = client.query_one("SELECT count(*), count(DISTINCT worker) FROM tasks WHERE payload LIKE 'e2e %' AND finished_at IS NOT NULL", &[]).await?;
        let (finished, workers): (i64, i64) = (row.get(0), row.get(1));
        if finished == 200 {
            ensure!(workers >= 2, "only {workers} of four workers took tasks");
            return Ok(());
        }
        ensure!(tokio::time::Instant::now() < deadline, "{finished} of 200 tasks are finished after a minute");
        // PostgreSQL has no watch. The deadline above bounds this loop.
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}
