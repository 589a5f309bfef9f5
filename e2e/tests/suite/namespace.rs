//! A customer's namespace: its guard rails, their repair, conflicts, and its deletion.

use std::collections::BTreeMap;

use ahoi_api::Customer;
use ahoi_e2e::Cluster;
use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::{ConfigMap, LimitRange, Namespace, Pod, ResourceQuota, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::rbac::v1::RoleBinding;
use kube::api::{DeleteParams, ListParams, ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt};
use serde_json::json;

fn namespace_object(name: &str, labels: &[(&str, &str)]) -> Namespace {
    let labels: BTreeMap<String, String> = labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    Namespace {
        metadata: ObjectMeta { name: Some(name.into()), labels: Some(labels), ..ObjectMeta::default() },
        ..Namespace::default()
    }
}

#[tokio::test]
async fn guard_rails_are_created_and_repaired() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let (name, namespace) = ("ns-guard", "customer-ns-guard");
    let groups = json!([{"group": "guard-team", "role": "Edit"}, {"group": "auditors"}]);
    cluster.create_customer_with(name, json!({"groups": groups})).await?;
    cluster.ready(name).await?;

    let labels = cluster.all::<Namespace>().get(namespace).await?.labels().clone();
    ensure!(labels.get(ahoi_api::CUSTOMER_LABEL).map(String::as_str) == Some(name));
    ensure!(labels.get("pod-security.kubernetes.io/enforce").map(String::as_str) == Some("restricted"));
    pods_must_be_restricted(&cluster, namespace).await?;

    let bindings = cluster.of::<RoleBinding>(namespace).list(&ListParams::default()).await?;
    let role_of = |group: &str| {
        bindings
            .items
            .iter()
            .find(|b| b.subjects.iter().flatten().any(|s| s.name == group))
            .map(|b| b.role_ref.name.clone())
    };
    ensure!(role_of("guard-team").as_deref() == Some("edit") && role_of("auditors").as_deref() == Some("view"));
    let accounts = cluster.of::<ServiceAccount>(namespace);
    ensure!(accounts.get("default").await?.automount_service_account_token == Some(false));

    repaired::<ResourceQuota>(&cluster, namespace, json!({"spec": {"hard": {"pods": "9999"}}})).await?;
    repaired::<LimitRange>(&cluster, namespace, json!({"spec": {"limits": []}})).await?;
    repaired::<NetworkPolicy>(&cluster, namespace, json!({"spec": {"policyTypes": ["Ingress"]}})).await?;
    // The label that enforces Pod Security is restored.
    let loose = json!({"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "privileged"}}});
    let namespaces = cluster.all::<Namespace>();
    namespaces.patch(namespace, &PatchParams::default(), &Patch::Merge(&loose)).await?;
    let enforced = |n: Option<&Namespace>| {
        n.is_some_and(|n| {
            n.labels().get("pod-security.kubernetes.io/enforce").map(String::as_str) == Some("restricted")
        })
    };
    cluster.until(&namespaces, namespace, "restricted again", 30, enforced).await?;
    policies_are_repaired_and_block_no_revocation(&cluster, name, namespace).await?;
    // Labels of others stay.
    let added = json!({"metadata": {"labels": {"cost-centre": "4711"}}});
    namespaces.patch(namespace, &PatchParams::default(), &Patch::Merge(&added)).await?;
    cluster.change(name, json!({"groups": [{"group": "auditors"}]})).await?;
    ensure!(
        namespaces.get(namespace).await?.labels().contains_key("cost-centre"),
        "a label of another manager was removed"
    );
    let bindings = cluster.of::<RoleBinding>(namespace).list(&ListParams::default()).await?;
    ensure!(bindings.items.len() == 1, "a removed group keeps its RoleBinding");
    cluster.delete_customer(name).await
}

/// Edits and then deletes the first object of the kind, and waits until it is restored.
async fn repaired<K>(cluster: &Cluster, namespace: &str, edit: serde_json::Value) -> Result<()>
where
    K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
    K: Clone + std::fmt::Debug + Send + serde::Serialize + serde::de::DeserializeOwned + 'static,
{
    let api: Api<K> = cluster.of(namespace);
    let spec = |object: &K| serde_json::to_value(object).map(|v| v["spec"].clone()).unwrap_or_default();
    let first = api.list(&ListParams::default()).await?.items.into_iter().next().context("none to edit")?;
    let (name, before) = (first.name_any(), spec(&first));
    let edited = api.patch(&name, &PatchParams::default(), &Patch::Merge(&edit)).await?;
    ensure!(spec(&edited) != before, "the edit of {} {name} changed nothing: the test proves nothing", K::kind(&()));
    let as_before = |o: Option<&K>| o.is_some_and(|o| spec(o) == before);
    cluster.until(&api, &name, "reverted", 30, as_before).await?;

    let uid = first.uid();
    api.delete(&name, &DeleteParams::default()).await?;
    let back = |o: Option<&K>| o.is_some_and(|o| o.uid() != uid && spec(o) == before);
    cluster.until(&api, &name, "recreated", 30, back).await.map(drop)
}

/// A policy without its label is repaired by name. While a finalizer blocks the deletion of a policy, a removed group still loses
/// its RoleBinding.
async fn policies_are_repaired_and_block_no_revocation(cluster: &Cluster, name: &str, namespace: &str) -> Result<()> {
    let policies = cluster.of::<NetworkPolicy>(namespace);
    let before = policies.get("default-deny").await?;
    let as_before = |p: &NetworkPolicy| p.spec == before.spec && p.labels() == before.labels();
    let open = json!({
        "metadata": {"labels": {"internal.example.com/guard-rail-of": null}},
        "spec": {"ingress": [{}]},
    });
    policies.patch("default-deny", &PatchParams::default(), &Patch::Merge(&open)).await?;
    let closed = |p: Option<&NetworkPolicy>| p.is_some_and(|p| p.uid() == before.uid() && as_before(p));
    cluster.until(&policies, "default-deny", "repaired without being deleted", 30, closed).await?;

    let held = json!({"metadata": {"finalizers": ["example.com/hold"]}});
    policies.patch("default-deny", &PatchParams::default(), &Patch::Merge(&held)).await?;
    policies.delete("default-deny", &DeleteParams::default()).await?;
    cluster.patch_spec(&cluster.customers(), name, json!({"groups": [{"group": "auditors"}]})).await?;
    cluster.until_gone(&cluster.of::<RoleBinding>(namespace), "customer-edit", 30).await?;
    let still = policies.get("default-deny").await?;
    ensure!(still.metadata.deletion_timestamp.is_some(), "the policy was deleted: the test proves nothing");
    let released = json!({"metadata": {"finalizers": null}});
    policies.patch("default-deny", &PatchParams::default(), &Patch::Merge(&released)).await?;
    let again = |p: Option<&NetworkPolicy>| p.is_some_and(|p| p.uid() != before.uid() && as_before(p));
    cluster.until(&policies, "default-deny", "recreated", 30, again).await.map(drop)
}

async fn pods_must_be_restricted(cluster: &Cluster, namespace: &str) -> Result<()> {
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "root"},
        "spec": {"containers": [{"name": "root", "image": "none", "securityContext": {"runAsUser": 0}}]}});
    let pod: Pod = serde_json::from_value(pod)?;
    let refused =
        cluster.of::<Pod>(namespace).create(&PostParams { dry_run: true, ..PostParams::default() }, &pod).await;
    let message = refused.err().map(|e| e.to_string()).unwrap_or_default();
    ensure!(message.contains("restricted"), "Pod Security allows a pod that runs as root: {message:?}");
    Ok(())
}

/// An existing namespace of that name is a conflict, and nothing is written into it.
#[tokio::test]
async fn an_existing_namespace_is_not_adopted() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let (name, namespace) = ("ns-foreign", "customer-ns-foreign");
    cluster.delete_customer(name).await?;
    let namespaces = cluster.all::<Namespace>();
    cluster.delete(&namespaces, namespace, 60).await?;
    // A label that a user set does not make the namespace ours.
    namespaces
        .create(&PostParams::default(), &namespace_object(namespace, &[(ahoi_api::CUSTOMER_LABEL, name)]))
        .await?;
    let before = namespaces.get(namespace).await?;
    cluster.create_customer(name, json!({"database": {"enabled": true}})).await?;
    let stalled = cluster.condition(name, "NamespaceReady", "False", "NameConflict").await?;
    let ready =
        stalled.status.context("no status")?.conditions.into_iter().find(|c| c.type_ == "Ready").context("no Ready")?;
    ensure!(ready.status == "False" && ready.message.contains(namespace), "{ready:?} does not name the namespace");
    let after = namespaces.get(namespace).await?;
    ensure!(after.resource_version() == before.resource_version(), "a foreign namespace was written to");
    let policies = cluster.of::<NetworkPolicy>(namespace).list(&ListParams::default()).await?;
    ensure!(policies.items.is_empty(), "something was created in a foreign namespace");
    // Deleting the customer does not delete it.
    cluster.delete_customer(name).await?;
    ensure!(namespaces.get_opt(namespace).await?.is_some_and(|n| n.metadata.deletion_timestamp.is_none()));
    cluster.delete(&namespaces, namespace, 60).await
}

/// Deleting a customer deletes its objects, and objects of others in its namespace.
#[tokio::test]
async fn deletion_removes_the_namespace_and_all_objects() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let (name, namespace) = ("ns-delete", "customer-ns-delete");
    let features = json!({"database": {"enabled": true}, "scheduler": {"enabled": true, "workers": 1}});
    cluster.create_customer(name, features).await?;
    cluster.ready(name).await?;
    let mut foreign = ConfigMap::default();
    foreign.metadata.name = Some("of-others".into());
    cluster.of::<ConfigMap>(namespace).create(&PostParams::default(), &foreign).await?;
    cluster.delete_customer(name).await?;
    ensure!(cluster.all::<Namespace>().get_opt(namespace).await?.is_none(), "the namespace was not deleted");
    let left = cluster
        .kubectl(&["get", "ahoi", "-A", "-o", "name", "-l", &format!("{}={name}", ahoi_api::CUSTOMER_LABEL)], "")
        .await?;
    ensure!(left.trim().is_empty(), "not deleted: {left}");
    Ok(())
}

/// The deletion is denied until spec.deletionProtection is false.
#[tokio::test]
async fn deletion_of_a_protected_customer_is_denied() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let name = "ns-protected";
    if cluster.customers().get_opt(name).await?.is_some() {
        cluster.patch_spec(&cluster.customers(), name, json!({"deletionProtection": false})).await?;
    }
    cluster.create_customer_with(name, json!({"deletionProtection": true})).await?;
    let refused = cluster.customers().delete(name, &DeleteParams::default()).await;
    let message = refused.err().map(|e| e.to_string()).unwrap_or_default();
    ensure!(message.contains("spec.deletionProtection"), "not denied with the name of the field: {message:?}");
    let there = |c: Option<&Customer>| c.is_some_and(|c| c.metadata.deletion_timestamp.is_none());
    cluster.until(&cluster.customers(), name, "not deleted", 5, there).await?;
    cluster.patch_spec(&cluster.customers(), name, json!({"deletionProtection": false})).await?;
    cluster.delete_customer(name).await
}

/// In the foreground, Kubernetes would delete the children before the controllers apply the deletion policy.
#[tokio::test]
async fn foreground_deletion_is_denied() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let name = "ns-foreground";
    cluster.create_customer_with(name, json!({})).await?;
    let refused = cluster.customers().delete(name, &DeleteParams::foreground()).await;
    let message = refused.err().map(|e| e.to_string()).unwrap_or_default();
    ensure!(message.contains(name) && message.contains("--cascade=background"), "not denied: {message:?}");
    let there = |c: Option<&Customer>| c.is_some_and(|c| c.metadata.deletion_timestamp.is_none());
    cluster.until(&cluster.customers(), name, "not deleted", 5, there).await?;
    cluster.customers().delete(name, &DeleteParams::background()).await?;
    cluster.until_gone(&cluster.customers(), name, 60).await
}
