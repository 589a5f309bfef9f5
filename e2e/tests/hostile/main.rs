//! Objects that a tenant or a newer release wrote, while controllers run and when they start: other customers are reconciled, no
//! controller runs out of memory, and no log contains a secret. These tests restart controllers and change a CRD, so they run one
//! after the other in their own binary.

mod logs;

use std::time::Duration;

use ahoi_api::namespace_of;
use ahoi_e2e::{Cluster, SYSTEM};
use anyhow::{Context as _, Result, ensure};
use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::ListParams;
use serde_json::{Value, json};

static ONE_AT_A_TIME: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// Runs kubectl as a tenant.
struct Tenant<'a> {
    cluster: &'a Cluster,
    namespace: String,
}

impl Tenant<'_> {
    async fn kubectl(&self, args: &[&str], stdin: &str) -> Result<String> {
        let who = ["--as=dev", "--as-group=acme-developers", "-n", &self.namespace];
        self.cluster.kubectl(&[&who, args].concat(), stdin).await
    }
}

/// Creates a customer with a database. Returns a tenant with role Edit.
async fn customer<'a>(cluster: &'a Cluster, name: &str, plan: Option<&str>) -> Result<Tenant<'a>> {
    let groups = json!([{"group": "acme-developers", "role": "Edit"}]);
    let mut spec = json!({"groups": groups, "features":
        {"database": {"enabled": true, "storage": "1gb"}, "scheduler": {"enabled": false}}});
    if let Some(plan) = plan {
        spec["plan"] = plan.into();
    }
    cluster.create_customer_with(name, spec).await?;
    cluster.ready(name).await?;
    Ok(Tenant { cluster, namespace: namespace_of(name) })
}

/// Returns a managed field with a time that our types cannot represent.
fn managed(fields: Value) -> String {
    json!({"metadata": {"managedFields": [{"manager": "x", "operation": "Update", "apiVersion": "v1",
        "time": "9999-12-31T23:59:59Z", "fieldsType": "FieldsV1", "fieldsV1": fields}]}})
    .to_string()
}

/// Restarts these controllers.
async fn restart(cluster: &Cluster, controllers: &[&str]) -> Result<()> {
    for controller in controllers {
        let deployment = format!("deploy/{controller}");
        cluster.kubectl(&["-n", SYSTEM, "rollout", "restart", &deployment], "").await?;
    }
    rolled_out(cluster, controllers).await
}

/// Waits until all pods of these controllers are updated and Ready.
async fn rolled_out(cluster: &Cluster, controllers: &[&str]) -> Result<()> {
    for controller in controllers {
        let deployment = format!("deploy/{controller}");
        cluster.kubectl(&["-n", SYSTEM, "rollout", "status", &deployment, "--timeout=100s"], "").await?;
    }
    Ok(())
}

/// Changes the customer and waits until its Database and its ConnectionPool are reconciled.
async fn is_reconciled(cluster: &Cluster, name: &str) -> Result<()> {
    let number = cluster.customers().get(name).await?.metadata.generation.unwrap_or_default() + 1;
    let storage = json!({"storage": format!("{number}gb")});
    let features = json!({"database": storage, "connectionPool": {"maxClientConnections": 10 + number}});
    cluster.change(name, json!({"features": features})).await.map(drop)
}

#[tokio::test]
async fn unreadable_objects_stop_no_other_and_no_secret_is_logged() -> Result<()> {
    let _alone = ONE_AT_A_TIME.lock().await;
    let cluster = Cluster::connect().await?;
    let tenant = customer(&cluster, "hostile", None).await?;
    customer(&cluster, "hostile-other", None).await?;
    let outcome = disturbed(&cluster, &tenant).await;
    // In any case, because the clients of other tests cannot read such objects.
    let _ = tenant.kubectl(&["delete", "secret", "p"], "").await;
    let back = json!({"metadata": {"finalizers": null}, "spec": {"deletionPolicy": "Retain"}}).to_string();
    let _ = cluster.kubectl(&["patch", "customer", "hostile-newer", "--type=merge", "-p", &back], "").await;
    let _ = cluster.kubectl(&["delete", "customer", "hostile-newer", "--ignore-not-found"], "").await;
    set_log(&cluster, None).await?;
    outcome?;
    for name in ["hostile", "hostile-other"] {
        cluster.delete_customer(name).await?;
    }
    Ok(())
}

async fn disturbed(cluster: &Cluster, tenant: &Tenant<'_>) -> Result<()> {
    tenant.kubectl(&["create", "secret", "generic", "p", "--from-literal=k=v"], "").await?;
    tenant.kubectl(&["label", "secret", "p", "internal.example.com/binding=direct"], "").await?;
    // Also objects that the controllers read.
    let namespace = &tenant.namespace;
    for (what, fields) in [
        ("secret/p", json!({"f:data": {"f:k": {}}})),
        ("secret/hostile-database", json!({"f:data": {"f:password": {}}})),
        ("secret/hostile-pool", json!({"f:data": {"f:password": {}}})),
        ("serviceaccount/default", json!({"f:automountServiceAccountToken": {}})),
    ] {
        tenant.kubectl(&["patch", what, "--type=merge", "-p", &managed(fields)], "").await?;
        let times = "jsonpath={.metadata.managedFields[*].time}";
        let found = cluster.kubectl(&["-n", namespace, "get", what, "-o", times], "").await?;
        ensure!(found.contains("9999-"), "{what} is readable, the test proves nothing: {found}");
    }
    newer_customer(cluster).await?;

    is_reconciled(cluster, "hostile-other").await.context("by running controllers")?;
    set_log(cluster, Some("trace")).await?;
    is_reconciled(cluster, "hostile-other").await.context("by controllers that started with unreadable objects")?;
    is_reconciled(cluster, "hostile").await.context("of the tenant that wrote them")?;
    cluster.pooled_again("hostile-other", 60).await?.query_one("SELECT 1", &[]).await?;
    is_reported(cluster).await?;
    // Admission sets its finalizer and its first status.
    let managers = "jsonpath={.metadata.managedFields[*].manager}";
    let newer = cluster.kubectl(&["get", "customer", "hostile-newer", "-o", managers], "").await?;
    ensure!(!newer.is_empty() && !newer.contains("ahoi-"), "{newer} wrote to the unreadable Customer");

    // A sweep detects a password that an administrator changed.
    let login = cluster.direct("hostile-other").await?;
    let admin = cluster.admin("postgres").await?;
    let role = login.get("username");
    admin.batch_execute(&format!("ALTER ROLE {role} PASSWORD 'another'")).await?;
    cluster.pooled_again("hostile-other", 150).await?;
    is_reconciled(cluster, "hostile-other").await.context("after its password was changed")?;
    logs::hold_no_secrets(cluster).await
}

/// Creates a Customer with a newer schema, and then restores the CRD.
async fn newer_customer(cluster: &Cluster) -> Result<()> {
    let add = json!([{"op": "add", "value": "Snapshot", "path":
        "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/deletionPolicy/enum/-"}]);
    let crd = "crd/customers.internal.example.com";
    cluster.kubectl(&["patch", crd, "--type=json", "-p", &add.to_string()], "").await?;
    let newer = json!({"apiVersion": "internal.example.com/v1", "kind": "Customer", "metadata": {"name": "hostile-newer"},
        "spec": {"deletionPolicy": "Snapshot"}});
    let newer = newer.to_string();
    let created = async {
        while cluster.apply(&newer).await.is_err() {
            // The API server loads the new schema asynchronously.
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), created).await.context("the newer Customer is denied")?;
    let shipped = concat!(env!("CARGO_MANIFEST_DIR"), "/../crds/customers.yaml");
    cluster.kubectl(&["apply", "--server-side", "--force-conflicts", "-f", shipped], "").await.map(drop)
}

/// Sets the log level of all controllers, which restarts them.
async fn set_log(cluster: &Cluster, level: Option<&str>) -> Result<()> {
    let variable = level.map_or("RUST_LOG-".to_owned(), |level| format!("RUST_LOG={level}"));
    let controllers: Vec<&str> = ahoi_e2e::controllers::controllers().iter().map(String::as_str).collect();
    for controller in &controllers {
        let deployment = format!("deploy/{controller}");
        cluster.kubectl(&["-n", SYSTEM, "set", "env", &deployment, &variable], "").await?;
    }
    rolled_out(cluster, &controllers).await
}

/// The unreadable Customer has an event that names the field.
async fn is_reported(cluster: &Cluster) -> Result<()> {
    let selector = "--field-selector=reason=Unreadable,involvedObject.name=hostile-newer";
    let found = async {
        loop {
            let events =
                cluster.kubectl(&["get", "events", "-A", selector, "-o", "jsonpath={.items[*].message}"], "").await?;
            if events.contains("spec.deletionPolicy") {
                return anyhow::Ok(());
            }
            // The time-out around this loop bounds it.
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), found).await.context("no event about the unreadable Customer")?
}

/// Many Secrets of 700 kB with our label and type do not increase the memory of the controllers.
#[tokio::test]
async fn many_large_secrets_cost_the_controllers_no_memory() -> Result<()> {
    let _alone = ONE_AT_A_TIME.lock().await;
    let cluster = Cluster::connect().await?;
    // Without a quota.
    let plan = json!({"apiVersion": "internal.example.com/v1", "kind": "Plan", "metadata": {"name": "hostile-flood"}, "spec": {}});
    cluster.apply(&plan.to_string()).await?;
    let tenant = customer(&cluster, "hostile-flood", Some("hostile-flood")).await?;
    customer(&cluster, "hostile-calm", None).await?;
    let outcome = flooded(&cluster, &tenant).await;
    let namespace = &tenant.namespace;
    cluster.kubectl(&["-n", namespace, "delete", "secret", "-l", "flood", "--wait=false"], "").await?;
    outcome?;
    for name in ["hostile-flood", "hostile-calm"] {
        cluster.delete_customer(name).await?;
    }
    cluster.kubectl(&["delete", "plan", "hostile-flood"], "").await.map(drop)
}

async fn flooded(cluster: &Cluster, tenant: &Tenant<'_>) -> Result<()> {
    let value = "eHh4".repeat(700 * 1024 / 3);
    let secret = |number: usize| -> Value {
        let kind = ["direct", "pooled"][number % 2];
        // Half of them have names like those of Databases and pools.
        let suffix = ["-database", "-pool", "", ""][number % 4];
        json!({"apiVersion": "v1", "kind": "Secret", "type": "servicebinding.io/postgresql", "data": {"password": value},
            "metadata": {"name": format!("flood-{number}{suffix}"),
                "labels": {"internal.example.com/binding": kind, "flood": "1"}}})
    };
    let texts = (0..300).map(|number| secret(number).to_string());
    futures::stream::iter(texts)
        .map(|text| async move { tenant.kubectl(&["create", "-f", "-"], &text).await })
        .buffer_unordered(4)
        .try_for_each(|_| std::future::ready(Ok(())))
        .await?;
    let controllers = ["ahoi-database", "ahoi-pgbouncer"];
    restart(cluster, &controllers).await?;
    is_reconciled(cluster, "hostile-calm").await?;
    for controller in controllers {
        let selector = ListParams::default().labels(&format!("app.kubernetes.io/name={controller}"));
        for pod in cluster.of::<Pod>(SYSTEM).list(&selector).await? {
            let statuses = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
            let restarts: i32 = statuses.map(|status| status.restart_count).sum();
            ensure!(restarts == 0, "{} was restarted {restarts} times", pod.name_any());
        }
    }
    Ok(())
}
