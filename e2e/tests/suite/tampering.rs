//! A member with role Edit tampers with objects of the controllers in its namespace: the controllers repair them or report the
//! conflict, and do not change passwords without a reason.

use std::time::{Duration, Instant};

use ahoi_api::{Customer, Database};
use ahoi_e2e::Cluster;
use ahoi_reconcile::conditions::{READY, find};
use anyhow::{Context as _, Result, ensure};
use futures::future::try_join_all;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{DeleteParams, ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Api, Client, Config, ResourceExt};
use serde_json::{Value, json};

/// Client of a tenant.
struct Tenant {
    cluster: Cluster,
    name: &'static str,
    secrets: Api<Secret>,
    deployments: Api<Deployment>,
}

impl Tenant {
    async fn of(cluster: &Cluster, name: &'static str, features: Value) -> Result<Self> {
        let groups = json!([{"group": format!("{name}-developers"), "role": "Edit"}]);
        cluster
            .create_customer_with(name, json!({"deletionPolicy": "Delete", "groups": groups, "features": features}))
            .await?;
        let mut config = Config::infer().await?;
        config.auth_info.impersonate = Some("dev".to_owned());
        config.auth_info.impersonate_groups = Some(vec![format!("{name}-developers")]);
        let (client, namespace) = (Client::try_from(config)?, ahoi_api::namespace_of(name));
        let secrets = Api::namespaced(client.clone(), &namespace);
        Ok(Tenant { cluster: cluster.clone(), name, secrets, deployments: Api::namespaced(client, &namespace) })
    }

    fn secret(&self) -> String {
        format!("{}-database", self.name)
    }

    async fn patch(&self, patch: Value) -> Result<Secret> {
        Ok(self.secrets.patch(&self.secret(), &PatchParams::default(), &Patch::Merge(patch)).await?)
    }

    async fn until(&self, what: &str, seconds: u64, holds: impl Fn(&Secret) -> bool) -> Result<Secret> {
        let holds = |secret: Option<&Secret>| secret.is_some_and(&holds);
        let found = self.cluster.until(&self.secrets, &self.secret(), what, seconds, holds).await?;
        found.context("the Secret was deleted")
    }

    async fn database(&self) -> Result<Database> {
        Ok(self.cluster.of::<Database>(&ahoi_api::namespace_of(self.name)).get(self.name).await?)
    }

    /// Returns both logins with their verifiers.
    async fn passwords(&self) -> Result<Vec<(String, Option<String>)>> {
        let database = self.database().await?.status.and_then(|status| status.database_name).context("no name")?;
        let query =
            "SELECT rolname::text, rolpassword FROM pg_authid WHERE rolname IN ($1 || '_a', $1 || '_b') ORDER BY 1";
        let rows = self.cluster.admin("postgres").await?.query(query, &[&database]).await?;
        Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
    }

    /// Waits for reason and message of condition Ready of the Database.
    async fn until_ready_reports(&self, what: &str, seconds: u64, holds: impl Fn(&str, &str) -> bool) -> Result<()> {
        let reports = |database: Option<&Database>| {
            let status = database.and_then(|database| database.status.as_ref());
            status
                .and_then(|status| find(&status.conditions, READY))
                .is_some_and(|ready| holds(&ready.reason, &ready.message))
        };
        let databases = self.cluster.of::<Database>(&ahoi_api::namespace_of(self.name));
        self.cluster.until(&databases, self.name, what, seconds, reports).await.map(drop)
    }

    async fn rotate(&self, trigger: &str) -> Result<()> {
        let spec = json!({"features": {"database": {"credentials": {"rotationRequest": trigger}}}});
        self.cluster.patch_spec(&self.cluster.customers(), self.name, spec).await.map(|_: Customer| ())
    }
}

/// Returns annotations that, with those of `kept`, leave no capacity for ours.
fn filled_up(kept: &[&str]) -> Value {
    let [hash, keys] = ["applied-hash", "applied-keys"].map(|name| format!("{}/{name}", ahoi_api::GROUP));
    let kept: usize = kept.iter().map(|text| text.len()).sum();
    json!({"metadata": {"annotations": {"example.com/huge": "x".repeat(262_100 - kept), hash: null, keys: null}}})
}

fn text(secret: &Secret, key: &str) -> String {
    let value = secret.data.as_ref().and_then(|data| data.get(key));
    value.map(|value| String::from_utf8_lossy(&value.0).into_owned()).unwrap_or_default()
}

fn is_controlled(meta: &ObjectMeta) -> bool {
    meta.owner_references.iter().flatten().any(|owner| owner.controller == Some(true) && owner.kind == "Database")
}

/// Damage that leaves the password in the Secret is repaired, and no login changes.
#[tokio::test]
async fn a_damaged_secret_is_repaired_without_a_new_password() -> Result<()> {
    let label = ahoi_api::BINDING_LABEL;
    let foreign =
        json!([{"apiVersion": "v1", "kind": "Secret", "name": "mine", "uid": "to be known", "controller": true}]);
    // Successive repairs of a Secret are delayed, so several customers share the cases.
    let damages = [
        (
            "tamper-links",
            vec![
                json!({"metadata": {"ownerReferences": null}}),
                json!({"metadata": {"labels": {label: null}}}),
                json!({"metadata": {"ownerReferences": foreign}}),
            ],
        ),
        (
            "tamper-data",
            vec![
                json!({"data": {"verifier": null, "username": null, "host": null}}),
                json!({"stringData": {"password": "by the tenant"}}),
            ],
        ),
        ("tamper-form", vec![json!({"immutable": true}), filled_up(&[])]),
    ];
    try_join_all(damages.into_iter().map(|(name, damages)| damaged(name, damages))).await?;
    Ok(())
}

async fn damaged(name: &'static str, damages: Vec<Value>) -> Result<()> {
    let cluster = Cluster::connect().await?;
    let features = json!({"database": {"enabled": true}, "connectionPool": {"enabled": false}});
    let tenant = Tenant::of(&cluster, name, features).await?;
    cluster.ready(tenant.name).await?;
    let (before, passwords) = (tenant.secrets.get(&tenant.secret()).await?, tenant.passwords().await?);
    let label = ahoi_api::BINDING_LABEL;
    let is_right = |secret: &Secret| {
        secret.data == before.data
            && secret.type_ == before.type_
            && secret.immutable.is_none()
            && is_controlled(&secret.metadata)
            && secret.labels().get(label).is_some_and(|label| label == "direct")
            && !secret.annotations().contains_key("example.com/huge")
            && secret.metadata.deletion_timestamp.is_none()
    };
    ensure!(is_right(&before), "the Secret is not correct before the test");

    let mut own = Secret::default();
    own.metadata.name = Some("mine".to_owned());
    let own = tenant.secrets.create(&PostParams::default(), &own).await?;
    for mut damage in damages {
        if let Some(uid) = damage.pointer_mut("/metadata/ownerReferences/0/uid") {
            *uid = json!(own.uid());
        }
        let what: String = damage.to_string().chars().take(80).collect();
        tenant.patch(damage).await.with_context(|| format!("the tenant may not {what}"))?;
        tenant.until(&format!("repaired after {what}"), 30, is_right).await?;
        println!("tampering: repaired: {what}");
        let now = tenant.passwords().await?;
        ensure!(now == passwords, "a password was changed");
    }
    cluster.ready(tenant.name).await?;
    let losses = tenant.database().await?.status.and_then(|status| status.credentials).and_then(|c| c.lost_secrets);
    ensure!(losses.is_none(), "{losses:?} logins were replaced");
    cluster.delete_customer(tenant.name).await
}

/// Neither an immutable Secret nor one with a finalizer stops a rotation or changes a password.
#[tokio::test]
async fn a_tampered_secret_stops_no_rotation() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let features = json!({"database": {"enabled": true}, "connectionPool": {"enabled": false}});
    let tenant = Tenant::of(&cluster, "tamper-rotation", features).await?;
    cluster.ready(tenant.name).await?;
    let before = tenant.secrets.get(&tenant.secret()).await?;
    tenant.patch(json!({"immutable": true})).await?;
    tenant.rotate("immutable").await?;
    let rotated = |secret: &Secret| text(secret, "username") != text(&before, "username");
    let first = tenant.until("the new login replaces an immutable Secret", 60, rotated).await?;
    cluster.direct(tenant.name).await?.connect().await.context("the new login")?;

    // While a finalizer blocks its deletion, the Secret has the right content, and is recreated with the same content.
    tenant.patch(json!({"metadata": {"finalizers": ["example.com/held"]}})).await?;
    tenant.secrets.delete(&tenant.secret(), &DeleteParams::default()).await?;
    let names_it = |_: &str, message: &str| message.contains("example.com/held") && message.contains(&tenant.secret());
    tenant.until_ready_reports("the message names the finalizer", 60, names_it).await?;
    let passwords = tenant.passwords().await?;
    tenant.patch(json!({"stringData": {"host": "elsewhere"}})).await?;
    tenant
        .until("repaired while it is being deleted", 30, |secret| text(secret, "host") == text(&first, "host"))
        .await?;
    tenant.patch(json!({"metadata": {"finalizers": null}})).await?;
    let created = |secret: &Secret| secret.uid() != first.uid() && secret.metadata.deletion_timestamp.is_none();
    let again = tenant.until("created again", 30, created).await?;
    ensure!(again.data == first.data, "another password");
    ensure!(tenant.passwords().await? == passwords, "a password was changed because of a finalizer");
    cluster.delete_customer(tenant.name).await
}

/// A Secret that is deleted repeatedly causes one new login, and the condition reports it.
#[tokio::test]
async fn deleting_the_secret_in_a_loop_replaces_one_login() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let features = json!({"database": {"enabled": true}, "connectionPool": {"enabled": false}});
    let tenant = Tenant::of(&cluster, "tamper-loop", features).await?;
    cluster.ready(tenant.name).await?;
    let before = tenant.passwords().await?;
    let (started, mut deleted) = (Instant::now(), 0);
    while started.elapsed() < Duration::from_secs(20) {
        match tenant.secrets.delete(&tenant.secret(), &DeleteParams::default()).await {
            Ok(_) => deleted += 1,
            Err(kube::Error::Api(status)) if status.is_not_found() => {
                tokio::time::sleep(Duration::from_millis(20)).await
            }
            Err(error) => return Err(error.into()),
        }
    }
    let after = tenant.passwords().await?;
    let changed = after.iter().filter(|login| !before.contains(login)).count();
    println!("tampering: {deleted} deletions within 20 s changed {changed} passwords");
    ensure!(changed == 1, "{changed} passwords were changed");
    let status = tenant.database().await?.status.context("no status")?;
    ensure!(status.credentials.and_then(|credentials| credentials.lost_secrets) == Some(1), "not counted");
    tenant
        .until_ready_reports("SecretLost", 30, |reason, message| {
            reason == "SecretLost" && message.contains(&tenant.secret())
        })
        .await?;
    cluster.delete_customer(tenant.name).await
}

/// A Secret that a tenant created under our name is a NameConflict that names the Secret.
#[tokio::test]
async fn a_name_conflict_names_the_object() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let tenant = Tenant::of(&cluster, "tamper-squat", json!({"database": {"enabled": false}})).await?;
    cluster.ready(tenant.name).await?;
    let mut squatted = Secret { type_: Some("Opaque".to_owned()), ..Secret::default() };
    squatted.metadata.name = Some(tenant.secret());
    squatted.string_data = Some([("mine".to_owned(), "yes".to_owned())].into());
    tenant.secrets.create(&PostParams::default(), &squatted).await?;
    let on = json!({"features": {"database": {"enabled": true}, "connectionPool": {"enabled": false}}});
    cluster.patch_spec::<Customer>(&cluster.customers(), tenant.name, on).await?;
    let is_conflict = |reason: &str, message: &str| reason == "NameConflict" && message.contains(&tenant.secret());
    tenant.until_ready_reports("NameConflict with the name of the Secret", 90, is_conflict).await?;
    cluster.condition(tenant.name, "DatabaseReady", "False", "NameConflict").await?;
    ensure!(
        text(&tenant.secrets.get(&tenant.secret()).await?, "mine") == "yes",
        "the Secret of the tenant was overwritten"
    );
    tenant.secrets.delete(&tenant.secret(), &DeleteParams::default()).await?;
    cluster.ready(tenant.name).await?;
    cluster.direct(tenant.name).await?.connect().await.context("the login of the Secret")?;
    cluster.delete_customer(tenant.name).await
}

/// Workers follow the spec although their Deployment lost its owner or has no capacity for annotations.
#[tokio::test]
async fn workers_follow_the_spec_after_their_deployment_was_tampered_with() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let features = json!({"database": {"enabled": false}, "scheduler": {"enabled": true, "workers": 1}});
    let tenant = Tenant::of(&cluster, "tamper-workers", features).await?;
    cluster.ready(tenant.name).await?;
    let name = format!("{}-worker", tenant.name);
    let before = tenant.deployments.get(&name).await?;
    let change =
        async |patch: Value| tenant.deployments.patch(&name, &PatchParams::default(), &Patch::Merge(patch)).await;
    change(json!({"metadata": {"ownerReferences": null}})).await?;
    let owned = |deployment: Option<&Deployment>| {
        deployment.is_some_and(|d| d.owner_references().iter().any(|owner| owner.kind == "Scheduler"))
    };
    cluster.until(&tenant.deployments, &name, "owned again", 30, owned).await?;
    ensure!(tenant.deployments.get(&name).await?.uid() == before.uid(), "the Deployment was recreated");
    let revision = ["deployment.kubernetes.io/revision", "100"];
    change(filled_up(&revision)).await?;
    cluster
        .patch_spec::<Customer>(&cluster.customers(), tenant.name, json!({"features": {"scheduler": {"workers": 2}}}))
        .await?;
    let two = |d: Option<&Deployment>| d.and_then(|d| d.spec.as_ref()).is_some_and(|spec| spec.replicas == Some(2));
    cluster.until(&tenant.deployments, &name, "two workers", 60, two).await?;
    cluster.delete_customer(tenant.name).await
}
