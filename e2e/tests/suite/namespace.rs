//! A customer's namespace: guarded, repaired, never stolen, gone with its customer.

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
async fn guard_rails_stand_and_are_repaired() -> Result<()> {
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
    // The label that enforces Pod Security is put back.
    let loose = json!({"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "privileged"}}});
    let namespaces = cluster.all::<Namespace>();
    namespaces.patch(namespace, &PatchParams::default(), &Patch::Merge(&loose)).await?;
    let enforced = |n: Option<&Namespace>| {
        n.is_some_and(|n| {
            n.labels().get("pod-security.kubernetes.io/enforce").map(String::as_str) == Some("restricted")
        })
    };
    cluster.until(&namespaces, namespace, "restricted again", 30, enforced).await?;
    policies_are_found_and_hold_nobody_up(&cluster, name, namespace).await?;
    // What others add stays.
    let added = json!({"metadata": {"labels": {"cost-centre": "4711"}}});
    namespaces.patch(namespace, &PatchParams::default(), &Patch::Merge(&added)).await?;
    cluster.change(name, json!({"groups": [{"group": "auditors"}]})).await?;
    ensure!(namespaces.get(namespace).await?.labels().contains_key("cost-centre"), "somebody else's label was removed");
    let bindings = cluster.of::<RoleBinding>(namespace).list(&ListParams::default()).await?;
    ensure!(bindings.items.len() == 1, "a group that left keeps its rights");
    cluster.delete_customer(name).await
}

/// Edited and deleted, the first object of the kind comes back as it was.
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
    cluster.until(&api, &name, "as it was before the edit", 30, as_before).await?;

    let uid = first.uid();
    api.delete(&name, &DeleteParams::default()).await?;
    let back = |o: Option<&K>| o.is_some_and(|o| o.uid() != uid && spec(o) == before);
    cluster.until(&api, &name, "made again after its deletion", 30, back).await.map(drop)
}

/// Without the label by which it is found a policy is put right by its name. While a finalizer holds one, a group that leaves
/// loses its rights all the same.
async fn policies_are_found_and_hold_nobody_up(cluster: &Cluster, name: &str, namespace: &str) -> Result<()> {
    let policies = cluster.of::<NetworkPolicy>(namespace);
    let before = policies.get("default-deny").await?;
    let as_before = |p: &NetworkPolicy| p.spec == before.spec && p.labels() == before.labels();
    let open = json!({
        "metadata": {"labels": {"internal.example.com/guard-rail-of": null}},
        "spec": {"ingress": [{}]},
    });
    policies.patch("default-deny", &PatchParams::default(), &Patch::Merge(&open)).await?;
    let closed = |p: Option<&NetworkPolicy>| p.is_some_and(|p| p.uid() == before.uid() && as_before(p));
    cluster.until(&policies, "default-deny", "labelled and closed again, and never away", 30, closed).await?;

    let held = json!({"metadata": {"finalizers": ["example.com/hold"]}});
    policies.patch("default-deny", &PatchParams::default(), &Patch::Merge(&held)).await?;
    policies.delete("default-deny", &DeleteParams::default()).await?;
    cluster.patch_spec(&cluster.customers(), name, json!({"groups": [{"group": "auditors"}]})).await?;
    cluster.until_gone(&cluster.of::<RoleBinding>(namespace), "customer-edit", 30).await?;
    let still = policies.get("default-deny").await?;
    ensure!(still.metadata.deletion_timestamp.is_some(), "the policy was not held: the test proves nothing");
    let released = json!({"metadata": {"finalizers": null}});
    policies.patch("default-deny", &PatchParams::default(), &Patch::Merge(&released)).await?;
    let again = |p: Option<&NetworkPolicy>| p.is_some_and(|p| p.uid() != before.uid() && as_before(p));
    cluster.until(&policies, "default-deny", "made again when it was gone", 30, again).await.map(drop)
}

async fn pods_must_be_restricted(cluster: &Cluster, namespace: &str) -> Result<()> {
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "root"},
        "spec": {"containers": [{"name": "root", "image": "none", "securityContext": {"runAsUser": 0}}]}});
    let pod: Pod = serde_json::from_value(pod)?;
    let refused =
        cluster.of::<Pod>(namespace).create(&PostParams { dry_run: true, ..PostParams::default() }, &pod).await;
    let message = refused.err().map(|e| e.to_string()).unwrap_or_default();
    ensure!(message.contains("restricted"), "a pod that runs as root is not refused by Pod Security: {message:?}");
    Ok(())
}

/// A namespace of that name that is somebody else's is refused and nothing is written into it.
#[tokio::test]
async fn a_foreign_namespace_is_refused() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let (name, namespace) = ("ns-foreign", "customer-ns-foreign");
    cluster.delete_customer(name).await?;
    let namespaces = cluster.all::<Namespace>();
    cluster.delete(&namespaces, namespace, 60).await?;
    // A label alone, put there by hand, makes nothing ours.
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
    // Deleting the customer does not take it away.
    cluster.delete_customer(name).await?;
    ensure!(namespaces.get_opt(namespace).await?.is_some_and(|n| n.metadata.deletion_timestamp.is_none()));
    cluster.delete(&namespaces, namespace, 60).await
}

/// Deleting a customer removes everything, also what others put into its namespace, and hangs on nothing.
#[tokio::test]
async fn deletion_cleans_up() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let (name, namespace) = ("ns-delete", "customer-ns-delete");
    let features = json!({"database": {"enabled": true}, "scheduler": {"enabled": true, "workers": 1}});
    cluster.create_customer(name, features).await?;
    cluster.ready(name).await?;
    let mut foreign = ConfigMap::default();
    foreign.metadata.name = Some("somebody-elses".into());
    cluster.of::<ConfigMap>(namespace).create(&PostParams::default(), &foreign).await?;
    cluster.delete_customer(name).await?;
    ensure!(cluster.all::<Namespace>().get_opt(namespace).await?.is_none(), "the namespace is left");
    let left = cluster
        .kubectl(&["get", "ahoi", "-A", "-o", "name", "-l", &format!("{}={name}", ahoi_api::CUSTOMER_LABEL)], "")
        .await?;
    ensure!(left.trim().is_empty(), "left behind: {left}");
    Ok(())
}

/// A protected customer is not deleted by mistake; nothing but the flag decides.
#[tokio::test]
async fn a_protected_customer_stays() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let name = "ns-protected";
    if cluster.customers().get_opt(name).await?.is_some() {
        cluster.patch_spec(&cluster.customers(), name, json!({"deletionProtection": false})).await?;
    }
    cluster.create_customer_with(name, json!({"deletionProtection": true})).await?;
    let refused = cluster.customers().delete(name, &DeleteParams::default()).await;
    let message = refused.err().map(|e| e.to_string()).unwrap_or_default();
    ensure!(message.contains("spec.deletionProtection"), "not refused by name of the field: {message:?}");
    let there = |c: Option<&Customer>| c.is_some_and(|c| c.metadata.deletion_timestamp.is_none());
    cluster.until(&cluster.customers(), name, "still there", 5, there).await?;
    cluster.patch_spec(&cluster.customers(), name, json!({"deletionProtection": false})).await?;
    cluster.delete_customer(name).await
}

/// In the foreground Kubernetes would delete the children before they have been told what becomes of the data.
#[tokio::test]
async fn a_customer_is_not_deleted_in_the_foreground() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let name = "ns-foreground";
    cluster.create_customer_with(name, json!({})).await?;
    let refused = cluster.customers().delete(name, &DeleteParams::foreground()).await;
    let message = refused.err().map(|e| e.to_string()).unwrap_or_default();
    ensure!(message.contains(name) && message.contains("--cascade=background"), "not refused: {message:?}");
    let there = |c: Option<&Customer>| c.is_some_and(|c| c.metadata.deletion_timestamp.is_none());
    cluster.until(&cluster.customers(), name, "still there", 5, there).await?;
    cluster.customers().delete(name, &DeleteParams::background()).await?;
    cluster.until_gone(&cluster.customers(), name, 60).await
}
