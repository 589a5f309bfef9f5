//! The ServiceAccounts of the controllers can write only in the namespaces of customers. Each RBAC right is tried with a dry run
//! that impersonates the account, which admission handles like any other request.

use std::collections::BTreeSet;

use ahoi_e2e::accounts::Right;
use ahoi_e2e::kinds::{Scope, resources};
use ahoi_e2e::{Cluster, SYSTEM};
use anyhow::{Context as _, Result, bail, ensure};
use k8s_openapi::api::core::v1::{Namespace, Pod, ServiceAccount};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use kube::api::{Api, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::{Client, ResourceExt as _};
use serde_json::{Value, json};

use crate::samples::{object, sample};

/// A namespace of no customer, and one that only has the name of a customer namespace.
const FOREIGN: &str = "rights-foreign";
const UNMARKED: &str = "customer-rights-unmarked";
const CUSTOMER: &str = "rights";
/// Name of the objects that exist before the requests, and of those that a request would create.
const PRESENT: &str = "rights-present";
const ABSENT: &str = "rights-absent";
/// Verbs that do not write.
const READS: [&str; 3] = ["get", "list", "watch"];
const NO_REQUESTS: [&str; 3] = ["bind", "escalate", "impersonate"];

#[tokio::test]
async fn controllers_cannot_write_outside_of_customer_namespaces() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let (rights, accounts) = writes(&cluster).await?;
    let tried: BTreeSet<&String> = rights.iter().map(|right| &right.account).collect();
    ensure!(tried.len() + 1 == accounts.len(), "{tried:?} of {accounts:?}: all but the agent have write access");

    prepare(&cluster).await?;
    let mut requests = 0;
    for namespace in ["kube-system", FOREIGN, UNMARKED] {
        for resource in rights.iter().map(Right::resource).collect::<BTreeSet<_>>() {
            place(&cluster, namespace, &resource).await?;
        }
        for right in &rights {
            // The policies do not apply to the finalizers of our kinds.
            if namespace == UNMARKED && right.group == ahoi_api::GROUP {
                continue;
            }
            let client = cluster.as_account(&right.account).await?;
            let outcome = attempt(&client, right, namespace).await;
            refused(outcome, &right.account).with_context(|| format!("{right:?} in {namespace}"))?;
            requests += 1;
        }
        for resource in rights.iter().map(Right::resource).collect::<BTreeSet<_>>() {
            remove(&cluster, namespace, &resource).await?;
        }
    }
    println!("rights: {requests} writes of {} accounts refused", tried.len());
    namespaces_of_others(&cluster).await?;
    in_its_own_namespace(&cluster, &rights).await?;
    in_a_customers_namespace(&cluster, &rights).await?;
    clean(&cluster).await
}

/// Returns all rights to write in all namespaces, and all accounts.
async fn writes(cluster: &Cluster) -> Result<(Vec<Right>, Vec<String>)> {
    let accounts = cluster.accounts().await?;
    let mut rights = Vec::new();
    for account in &accounts {
        rights.extend(cluster.rights(account).await?);
    }
    let own_cluster_scoped = resources(Scope::Cluster);
    rights.retain(|right| {
        let own = own_cluster_scoped.iter().any(|own| right.resource.split('/').next() == Some(own));
        let request = !READS.contains(&right.verb.as_str()) && !NO_REQUESTS.contains(&right.verb.as_str());
        request && !own && right.resource != "namespaces" && right.subresource() != Some("finalizers")
    });
    Ok((rights, accounts))
}

/// Sends the request of a right as a dry run.
async fn attempt(client: &Client, right: &Right, namespace: &str) -> kube::Result<()> {
    let (resource, body) = sample(&right.resource()).map_err(|error| kube::Error::Service(error.into()))?;
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &resource);
    let post = PostParams { dry_run: true, ..PostParams::default() };
    let merge = PatchParams { dry_run: true, ..PatchParams::default() };
    let delete = DeleteParams { dry_run: true, ..DeleteParams::default() };
    let marked = json!({"metadata": {"labels": {"rights": "changed"}}});
    let new = || object(&resource, namespace, ABSENT, &body).map_err(|error| kube::Error::Service(error.into()));
    match (right.verb.as_str(), right.subresource()) {
        ("create", None) => api.create(&post, &new()?).await.map(drop),
        ("update", None) => {
            let mut there = api.get(PRESENT).await?;
            there.labels_mut().insert("rights".into(), "changed".into());
            api.replace(PRESENT, &post, &there).await.map(drop)
        }
        ("patch", None) => api.patch(PRESENT, &merge, &Patch::Merge(&marked)).await.map(drop),
        ("patch", Some("status")) => {
            api.patch_status(PRESENT, &merge, &Patch::Merge(&json!({"status": {}}))).await.map(drop)
        }
        ("delete", None) => api.delete(PRESENT, &delete).await.map(drop),
        ("deletecollection", None) => {
            api.delete_collection(&delete, &ListParams::default().labels("rights=present")).await.map(drop)
        }
        other => Err(kube::Error::Service(format!("no request for {other:?}: add one").into())),
    }
}

/// Fails unless the policy refused the request.
fn refused(outcome: kube::Result<()>, account: &str) -> Result<()> {
    let Err(kube::Error::Api(status)) = outcome else { bail!("not refused: {outcome:?}") };
    let by_policy = status.message.contains("ValidatingAdmissionPolicy 'ahoi-controllers'")
        && status.message.contains(&format!("ServiceAccount {account} may not"));
    ensure!(status.code == 403 && status.reason == "Forbidden" && by_policy, "refused for another reason: {status:?}");
    Ok(())
}

/// For namespaces, which are cluster-scoped, name and labels decide.
async fn namespaces_of_others(cluster: &Cluster) -> Result<()> {
    let api: Api<Namespace> = Api::all(cluster.as_account("ahoi-namespace").await?);
    let post = PostParams { dry_run: true, ..PostParams::default() };
    let delete = DeleteParams { dry_run: true, ..DeleteParams::default() };
    for name in ["kube-system", SYSTEM, FOREIGN, UNMARKED] {
        // Kubernetes itself protects this namespace.
        if name != "kube-system" {
            let outcome = api.delete(name, &delete).await;
            refused(outcome.map(drop), "ahoi-namespace").with_context(|| format!("delete {name}"))?;
        }
        let mut there = api.get(name).await?;
        there.labels_mut().insert(ahoi_api::CUSTOMER_LABEL.into(), "rights-unmarked".into());
        there.labels_mut().insert(ahoi_api::NAMESPACE_OWNER_LABEL.into(), "taken".into());
        refused(api.replace(name, &post, &there).await.map(drop), "ahoi-namespace")
            .with_context(|| format!("take {name}"))?;
    }
    for name in ["rights-other", "customer-rights-other"] {
        let namespace = Namespace {
            metadata: kube::core::ObjectMeta { name: Some(name.into()), ..Default::default() },
            ..Default::default()
        };
        refused(api.create(&post, &namespace).await.map(drop), "ahoi-namespace")
            .with_context(|| format!("create {name}"))?;
    }
    Ok(())
}

/// In ahoi-system, each controller can write only its own objects. Secrets are allowed by name.
async fn in_its_own_namespace(cluster: &Cluster, rights: &[Right]) -> Result<()> {
    for right in rights.iter().filter(|right| right.verb == "create") {
        let free = right.group == ahoi_api::GROUP || right.resource() == "events.events.k8s.io";
        let outcome = attempt(&cluster.as_account(&right.account).await?, right, SYSTEM).await;
        if free {
            outcome.with_context(|| format!("{right:?} in {SYSTEM}"))?;
        } else {
            refused(outcome, &right.account).with_context(|| format!("{right:?} in {SYSTEM}"))?;
        }
    }
    Ok(())
}

/// The same requests are allowed in the namespace of a customer. Otherwise the refusals prove nothing.
async fn in_a_customers_namespace(cluster: &Cluster, rights: &[Right]) -> Result<()> {
    for right in rights.iter().filter(|right| right.verb == "create") {
        let outcome =
            attempt(&cluster.as_account(&right.account).await?, right, &ahoi_api::namespace_of(CUSTOMER)).await;
        // Controllers write only the default ServiceAccount of a customer.
        if right.resource == "serviceaccounts" {
            refused(outcome, &right.account)?;
        } else {
            outcome.with_context(|| format!("{right:?} in a customer's namespace"))?;
        }
    }
    Ok(())
}

/// The policies also limit rights that are added later, here an account with all RBAC rights.
#[tokio::test]
async fn an_account_with_every_right_is_bounded() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let bindings = cluster.all::<ClusterRoleBinding>();
    let user = format!("system:serviceaccount:{SYSTEM}:rights-later");
    let binding = json!({"metadata": {"name": "ahoi-e2e-rights-later"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}]});
    cluster.delete(&bindings, "ahoi-e2e-rights-later", 30).await?;
    bindings.create(&PostParams::default(), &serde_json::from_value(binding)?).await?;
    let client = cluster.acting_as(&user, &["system:authenticated"]).await?;
    let create = async |resource: &str, namespace: &str| {
        let right = Right {
            account: "rights-later".into(),
            group: resource.split_once('.').map(|(_, group)| group.to_owned()).unwrap_or_default(),
            resource: resource.split('.').next().unwrap_or_default().to_owned(),
            verb: "create".into(),
            names: Vec::new(),
        };
        attempt(&client, &right, namespace).await
    };
    for resource in ["deployments.apps", "secrets", "rolebindings.rbac.authorization.k8s.io", "serviceaccounts"] {
        for namespace in ["kube-system", "default", SYSTEM] {
            refused(create(resource, namespace).await, "rights-later")
                .with_context(|| format!("{resource} in {namespace}"))?;
        }
    }
    let post = PostParams { dry_run: true, ..PostParams::default() };
    let everything = json!({"metadata": {"name": "rights-later-more"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"}, "subjects": []});
    let all: Api<ClusterRoleBinding> = Api::all(client.clone());
    refused(all.create(&post, &serde_json::from_value(everything)?).await.map(drop), "rights-later")?;
    // Tokens of other accounts and commands in pods are refused everywhere.
    let token = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"audiences": []}});
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), SYSTEM);
    let asked = accounts.create_subresource::<Value, Value>("token", "ahoi-namespace", &post, &token).await;
    refused(asked.map(drop), "rights-later").context("a token")?;
    let pods: Api<Pod> = Api::namespaced(client, SYSTEM);
    let command = "exec?stdout=true&command=true";
    let run =
        pods.create_subresource::<Value, Value>(command, "demo-postgres-0", &PostParams::default(), &json!({})).await;
    refused(run.map(drop), "rights-later").context("a command in a pod")?;
    cluster.delete(&bindings, "ahoi-e2e-rights-later", 30).await
}

/// See docs/security.md. RBAC cannot restrict list and watch to the metadata of Secrets.
#[tokio::test]
async fn only_two_controllers_read_secrets() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let mut readers = BTreeSet::new();
    for account in cluster.accounts().await? {
        for right in cluster.rights(&account).await? {
            if right.resource() == "secrets" && READS.contains(&right.verb.as_str()) && right.names.is_empty() {
                readers.insert(account.clone());
            }
        }
    }
    ensure!(readers == BTreeSet::from(["ahoi-database".into(), "ahoi-pgbouncer".into()]), "{readers:?}");
    Ok(())
}

/// Members of a customer's groups read the objects of Ahoi in their own namespace: they write none, and see no other namespace.
#[tokio::test]
async fn groups_of_a_customer_read_its_objects() -> Result<()> {
    const NAME: &str = "rights-groups";
    let cluster = Cluster::connect().await?;
    let groups = json!([{"group": "rights-view"}, {"group": "rights-edit", "role": "Edit"},
        {"group": "rights-admin", "role": "Admin"}]);
    let features = json!({"database": {"enabled": true}, "scheduler": {"enabled": true, "workers": 0}});
    cluster.create_customer_with(NAME, json!({"groups": groups, "features": features})).await?;
    cluster.ready(NAME).await?;
    let namespace = ahoi_api::namespace_of(NAME);
    let post = PostParams { dry_run: true, ..PostParams::default() };
    for group in ["rights-view", "rights-edit", "rights-admin"] {
        let client = cluster.acting_as("rights-member", &[group, "system:authenticated"]).await?;
        for resource in ["databases", "connectionpools", "schedulers"] {
            let api = |namespace: &str| -> Api<DynamicObject> {
                let kind = kube::core::ApiResource {
                    group: ahoi_api::GROUP.into(),
                    version: "v1".into(),
                    api_version: format!("{}/v1", ahoi_api::GROUP),
                    kind: String::new(),
                    plural: resource.into(),
                };
                Api::namespaced_with(client.clone(), namespace, &kind)
            };
            let objects = api(&namespace).list(&ListParams::default()).await;
            let objects = objects.with_context(|| format!("{group} lists {resource}"))?;
            let object = objects.items.first().with_context(|| format!("no {resource}"))?;
            let Err(kube::Error::Api(status)) = api(&namespace).replace(&object.name_any(), &post, object).await else {
                bail!("{group} may write {resource}")
            };
            ensure!(status.code == 403, "{status:?}");
            let Err(kube::Error::Api(status)) = api(SYSTEM).list(&ListParams::default()).await else {
                bail!("{group} may read {resource} of {SYSTEM}")
            };
            ensure!(status.code == 403, "{status:?}");
        }
    }
    cluster.delete_customer(NAME).await
}

/// Only users who can change the guard rails can set the labels that mark the namespace of a customer.
#[tokio::test]
async fn labels_of_customer_namespaces_are_protected() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let user = "rights-provisioner";
    let (role, bindings) = (
        json!({"metadata": {"name": "ahoi-e2e-provisioner"}, "rules": [
        {"apiGroups": [""], "resources": ["namespaces"], "verbs": ["get", "create", "update", "patch"]}]}),
        cluster.all::<ClusterRoleBinding>(),
    );
    let roles = cluster.all::<ClusterRole>();
    cluster.delete(&bindings, "ahoi-e2e-provisioner", 30).await?;
    cluster.delete(&roles, "ahoi-e2e-provisioner", 30).await?;
    roles.create(&PostParams::default(), &serde_json::from_value(role)?).await?;
    let binding = json!({"metadata": {"name": "ahoi-e2e-provisioner"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "ahoi-e2e-provisioner"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}]});
    bindings.create(&PostParams::default(), &serde_json::from_value(binding)?).await?;

    let api: Api<Namespace> = Api::all(cluster.acting_as(user, &["system:authenticated"]).await?);
    let post = PostParams { dry_run: true, ..PostParams::default() };
    let create = async |name: &str, labels: Value| {
        let namespace: Namespace = serde_json::from_value(json!({"metadata": {"name": name, "labels": labels}}))
            .map_err(kube::Error::SerdeError)?;
        api.create(&post, &namespace).await.map(drop)
    };
    create("rights-own", json!({"team": "a"})).await.context("a namespace without these labels")?;
    for (name, labels) in [
        ("customer-rights-own", json!({})),
        ("rights-own", json!({ahoi_api::CUSTOMER_LABEL: "rights-own"})),
        ("rights-own", json!({ahoi_api::NAMESPACE_OWNER_LABEL: "0"})),
    ] {
        let Err(kube::Error::Api(status)) = create(name, labels.clone()).await else {
            bail!("allowed: {name} {labels}")
        };
        ensure!(
            status.code == 403 && status.message.contains("ValidatingAdmissionPolicy 'ahoi-namespaces'"),
            "{status:?}"
        );
    }
    let merge = PatchParams { dry_run: true, ..PatchParams::default() };
    let marked = json!({"metadata": {"labels": {ahoi_api::CUSTOMER_LABEL: "default"}}});
    let Err(kube::Error::Api(status)) = api.patch("default", &merge, &Patch::Merge(&marked)).await else {
        bail!("allowed")
    };
    ensure!(status.code == 403 && status.message.contains("ValidatingAdmissionPolicy 'ahoi-namespaces'"), "{status:?}");
    cluster.delete(&bindings, "ahoi-e2e-provisioner", 30).await?;
    cluster.delete(&roles, "ahoi-e2e-provisioner", 30).await
}

async fn prepare(cluster: &Cluster) -> Result<()> {
    clean(cluster).await?;
    for name in [FOREIGN, UNMARKED] {
        let namespace = Namespace {
            metadata: kube::core::ObjectMeta { name: Some(name.into()), ..Default::default() },
            ..Default::default()
        };
        cluster.all::<Namespace>().create(&PostParams::default(), &namespace).await?;
    }
    cluster.create_customer_with(CUSTOMER, json!({"deletionPolicy": "Delete"})).await?;
    cluster.ready(CUSTOMER).await.map(drop)
}

async fn clean(cluster: &Cluster) -> Result<()> {
    cluster.delete_customer(CUSTOMER).await?;
    for name in [FOREIGN, UNMARKED] {
        cluster.delete(&cluster.all::<Namespace>(), name, 60).await?;
    }
    Ok(())
}

/// Creates an object for update and delete requests, as the administrator.
async fn place(cluster: &Cluster, namespace: &str, resource: &str) -> Result<()> {
    let (kind, body) = sample(resource)?;
    let api: Api<DynamicObject> = Api::namespaced_with(cluster.client.clone(), namespace, &kind);
    remove(cluster, namespace, resource).await?;
    let mut present = object(&kind, namespace, PRESENT, &body)?;
    present.labels_mut().insert("rights".into(), "present".into());
    api.create(&PostParams::default(), &present).await.with_context(|| format!("{resource} in {namespace}"))?;
    Ok(())
}

async fn remove(cluster: &Cluster, namespace: &str, resource: &str) -> Result<()> {
    let (kind, _) = sample(resource)?;
    let api: Api<DynamicObject> = Api::namespaced_with(cluster.client.clone(), namespace, &kind);
    match api.delete(PRESENT, &DeleteParams::default()).await {
        Err(kube::Error::Api(status)) if !status.is_not_found() => Err(kube::Error::Api(status).into()),
        Err(kube::Error::Api(_)) | Ok(_) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
