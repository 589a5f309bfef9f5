//! Network access of customer pods, tested with connections. The cluster enforces NetworkPolicies (e2e/cluster/network-policies).

use std::collections::BTreeSet;

use ahoi_api::{PgBouncer, PgBouncerSpec, Plan, namespace_of};
use ahoi_e2e::controllers::controllers;
use ahoi_e2e::probes::{PROBE, PROBE_PORT, Target};
use ahoi_e2e::{Cluster, SYSTEM};
use ahoi_reconcile::is_ready;
use anyhow::{Context as _, Result, bail, ensure};
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::Api;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Duration, timeout};

/// Customers without a database, with one, and without one on a Plan that allows tenants to write any NetworkPolicy.
const WITHOUT: &str = "network-without";
const WITH: &str = "network-with";
const FREE: &str = "network-free";
const GROUP: &str = "network-developers";
/// A fleet without pools of these customers.
const FLEET: &str = "network-other";

#[tokio::test]
async fn pods_reach_only_their_own_customers_endpoints() -> Result<()> {
    let cluster = Cluster::connect().await?;
    prepare(&cluster).await?;
    let (node, host) = addresses(&cluster).await?;
    // Stands for a PostgreSQL outside of the cluster.
    let outside = TcpListener::bind((host.as_str(), 5432)).await.context("a listener outside of the cluster")?;
    let _serving = tokio::spawn(async move { while outside.accept().await.is_ok() {} });
    let other = cluster.start_probe(&namespace_of(FREE)).await?;
    cluster.start_probe(&namespace_of(WITHOUT)).await?;
    let own = cluster.start_probe(&namespace_of(WITH)).await?;

    let mut closed = forbidden(&cluster, &node, &host, &other).await?;
    closed.extend(fleet(&cluster, FLEET).await?);
    let postgres = postgres(&cluster).await?;
    // Each target must listen, or the test proves nothing. NetworkPolicies do not apply to the machine itself.
    for target in closed.iter().chain(&postgres).filter(|target| !target.host.starts_with("169.254.")) {
        let there = timeout(Duration::from_secs(3), TcpStream::connect((target.host.as_str(), target.port))).await;
        ensure!(matches!(there, Ok(Ok(_))), "not listening: {target:?} {there:?}");
    }
    only_own_endpoints(&cluster, &closed, &postgres, &own).await?;

    tenants_cannot_open_their_namespaces(&cluster).await?;
    only_own_endpoints(&cluster, &closed, &postgres, &own).await.context("after the tenant tried to open it")?;

    a_plan_allows_tenant_policies(&cluster, &closed).await?;
    for name in [WITHOUT, WITH, FREE] {
        cluster.delete_customer(name).await?;
    }
    cluster.delete(&cluster.of::<PgBouncer>(SYSTEM), FLEET, 120).await?;
    cluster.delete(&cluster.all::<Plan>(), FREE, 30).await
}

async fn prepare(cluster: &Cluster) -> Result<()> {
    for name in [WITHOUT, WITH, FREE] {
        cluster.delete_customer(name).await?;
    }
    let plans = cluster.all::<Plan>();
    cluster.delete(&plans, FREE, 30).await?;
    let fleets = cluster.of::<PgBouncer>(SYSTEM);
    cluster.delete(&fleets, FLEET, 120).await?;
    let spec: PgBouncerSpec = serde_json::from_value(json!({"replicas": 1}))?;
    fleets.create(&PostParams::default(), &PgBouncer::new(FLEET, spec)).await?;
    let plan: Plan = serde_json::from_value(json!({
        "metadata": {"name": FREE, "annotations": {"internal.example.com/allow-deletion": "true"}}, "spec": {"guardrails": {"tenantNetworkPolicies": "Unrestricted"}}}))?;
    plans.create(&PostParams::default(), &plan).await?;
    let groups = json!([{"group": GROUP, "role": "Edit"}]);
    for (name, database, plan) in [(WITHOUT, false, "default"), (WITH, true, "default"), (FREE, false, FREE)] {
        let features = json!({"database": {"enabled": database}, "scheduler": {"enabled": false}});
        let spec = json!({"plan": plan, "deletionPolicy": "Delete", "groups": groups, "features": features});
        cluster.create_customer_with(name, spec).await?;
    }
    for name in [WITHOUT, WITH, FREE] {
        cluster.ready(name).await?;
    }
    let is_serving = |fleet: Option<&PgBouncer>| fleet.is_some_and(is_ready);
    cluster.until(&fleets, FLEET, "Ready", 120, is_serving).await.map(drop)
}

/// Returns the addresses of the node and of its machine.
async fn addresses(cluster: &Cluster) -> Result<(String, String)> {
    let nodes = cluster.all::<Node>().list(&ListParams::default()).await?;
    let addresses = nodes.items.into_iter().next().and_then(|node| node.status?.addresses).unwrap_or_default();
    let node =
        addresses.into_iter().find(|address| address.type_ == "InternalIP").context("the node's address")?.address;
    let network = node.strip_suffix(".2").context("e2e/cluster/lib gives nodes the second address")?;
    Ok((node.clone(), format!("{network}.1")))
}

/// Targets that no customer may reach.
async fn forbidden(cluster: &Cluster, node: &str, host: &str, other: &str) -> Result<Vec<Target>> {
    let mut targets = vec![
        Target::new("a pod of another customer", other, PROBE_PORT),
        Target::new("the API server", node, 6443),
        Target::new("the API server's Service", cluster.address("default", "kubernetes").await?, 443),
        Target::new("the kubelet", node, 10250),
        Target::new("the node's metadata", "169.254.169.254", 80),
        Target::new("port 5432 outside of the cluster", host, 5432),
    ];
    for controller in controllers() {
        let address = cluster.address_of_pod(&format!("app.kubernetes.io/name={controller}")).await?;
        targets.push(Target::new(&format!("the metrics of {controller}"), address, 8080));
    }
    let fleet =
        cluster.of::<Pod>(SYSTEM).list(&ListParams::default().labels("internal.example.com/pgbouncer=global")).await?;
    for pod in fleet {
        let name = pod.metadata.name.unwrap_or_default();
        let address = pod.status.and_then(|status| status.pod_ip).with_context(|| name.clone())?;
        targets.push(Target::new(&format!("the agent of {name}"), address, 8080));
    }
    Ok(targets)
}

/// Targets that only a customer with a database may reach.
async fn postgres(cluster: &Cluster) -> Result<Vec<Target>> {
    let pod = cluster.address_of_pod("app.kubernetes.io/name=demo-postgres").await?;
    let service = cluster.address(SYSTEM, "demo-postgres").await?;
    let postgres = [Target::new("PostgreSQL's pod", pod, 5432), Target::new("PostgreSQL's Service", service, 5432)];
    Ok(postgres.into_iter().chain(fleet(cluster, "global").await?).collect())
}

/// Targets that clients of a fleet connect to.
async fn fleet(cluster: &Cluster, name: &str) -> Result<[Target; 2]> {
    let pod = cluster.address_of_pod(&format!("internal.example.com/pgbouncer={name}")).await?;
    let service = cluster.address(SYSTEM, name).await?;
    Ok([
        Target::new(&format!("a process of the fleet {name}"), pod, 6432),
        Target::new(&format!("the Service of the fleet {name}"), service, 6432),
    ])
}

async fn only_own_endpoints(cluster: &Cluster, closed: &[Target], postgres: &[Target], own: &str) -> Result<()> {
    for (name, more) in [(WITHOUT, postgres), (WITH, &[][..])] {
        let targets: Vec<Target> = closed.iter().chain(more).cloned().collect();
        let reached = cluster.reached(&namespace_of(name), &targets).await?;
        println!("network: {name} reaches {} of {} forbidden targets", reached.len(), targets.len());
        ensure!(reached.is_empty(), "{name} reaches {reached:?}");
    }
    // By name, to test DNS as well.
    let pool = cluster.pooled(WITH).await?;
    let mut open =
        vec![Target::new("the fleet", pool.get("host"), 6432), Target::new("the namespace's own pod", own, PROBE_PORT)];
    open.extend(postgres.iter().cloned());
    let reached = cluster.reached(&namespace_of(WITH), &open).await?;
    ensure!(reached.len() == open.len(), "{WITH} reaches only {reached:?}");
    let query = "psql -XAtc 'SELECT 21 * 2'";
    let uri = pool.get("uri");
    let answer = cluster
        .kubectl(
            &["-n", &namespace_of(WITH), "exec", "-i", PROBE, "--", "bash"],
            &format!("export PGCONNECT_TIMEOUT=10\n{query} '{uri}'\n"),
        )
        .await?;
    ensure!(answer.trim() == "42", "through the pool: {answer}");
    Ok(())
}

/// A member with role Edit cannot write a policy that allows more traffic.
async fn tenants_cannot_open_their_namespaces(cluster: &Cluster) -> Result<()> {
    let policies = as_developer(cluster, WITHOUT).await?;
    let everything = json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"], "ingress": [{}], "egress": [{}]});
    let rule = |direction: &str, peers: Value| {
        let side = if direction == "Egress" { "to" } else { "from" };
        json!({"podSelector": {}, "policyTypes": [direction], direction.to_lowercase(): [{side: peers}]})
    };
    for spec in [
        everything.clone(),
        json!({"podSelector": {}, "policyTypes": ["Egress"], "egress": [{}]}),
        json!({"podSelector": {}, "policyTypes": ["Egress"], "egress": [{"ports": [{"port": 443}]}]}),
        json!({"podSelector": {}, "policyTypes": ["Ingress"], "ingress": [{}]}),
        rule("Egress", json!([])),
        rule("Egress", json!([{"ipBlock": {"cidr": "0.0.0.0/0"}}])),
        rule("Egress", json!([{"ipBlock": {"cidr": "169.254.169.254/32"}}])),
        rule("Egress", json!([{"namespaceSelector": {}}])),
        rule("Egress", json!([{"podSelector": {}}, {"namespaceSelector": {}, "podSelector": {}}])),
        rule("Ingress", json!([{"namespaceSelector": {}}])),
        rule("Ingress", json!([{"podSelector": {}}, {"ipBlock": {"cidr": "10.0.0.0/8"}}])),
    ] {
        let policy = json!({"metadata": {"name": "wide-open"}, "spec": spec});
        let outcome = policies.create(&PostParams::default(), &serde_json::from_value(policy)?).await;
        refused(outcome.map(drop), "NetworkPolicy wide-open would allow traffic").with_context(|| spec.to_string())?;
    }
    // A policy for traffic within the namespace is allowed, until it allows more.
    let within = json!({"metadata": {"name": "within"}, "spec": rule("Egress", json!([{"podSelector": {"matchLabels": {"app": "db"}}}]))});
    policies
        .create(&PostParams::default(), &serde_json::from_value(within)?)
        .await
        .context("a policy within the namespace")?;
    let opened = Patch::Merge(json!({"spec": everything}));
    let params = PatchParams::default();
    refused(policies.patch("within", &params, &opened).await.map(drop), "NetworkPolicy within would allow traffic")?;
    for name in ["default-deny", "allow-platform"] {
        let ours = format!("NetworkPolicy {name} is one of the platform");
        refused(policies.patch(name, &params, &opened).await.map(drop), &ours)?;
        let unlabelled = Patch::Merge(json!({"metadata": {"labels": null}}));
        refused(policies.patch(name, &params, &unlabelled).await.map(drop), &ours)?;
        refused(policies.delete(name, &DeleteParams::default()).await.map(drop), &ours)?;
    }
    let all = policies.delete_collection(&DeleteParams::default(), &ListParams::default()).await;
    refused(all.map(drop), "is one of the platform")?;
    let names: BTreeSet<_> =
        policies.list(&ListParams::default()).await?.into_iter().filter_map(|p| p.metadata.name).collect();
    ensure!(names.contains("default-deny") && names.contains("allow-platform"), "{names:?}");
    Ok(())
}

/// If the Plan allows it, tenants can open their namespace. This shows that the policies are what blocks the traffic.
async fn a_plan_allows_tenant_policies(cluster: &Cluster, closed: &[Target]) -> Result<()> {
    let namespace = namespace_of(FREE);
    let own = "a pod of another customer";
    let before = cluster.reached(&namespace, closed).await?;
    ensure!(before == [own], "{FREE} reaches {before:?} before");
    let policies = as_developer(cluster, FREE).await?;
    let policy = json!({"metadata": {"name": "wide-open"}, "spec": {"podSelector": {}, "policyTypes": ["Egress"], "egress": [{}]}});
    policies.create(&PostParams::default(), &serde_json::from_value(policy)?).await?;
    let reached = cluster.reached(&namespace, closed).await?;
    for what in [
        "the API server",
        "the API server's Service",
        "the kubelet",
        "the node's metadata",
        "port 5432 outside of the cluster",
    ] {
        ensure!(reached.iter().any(|target| target == what), "{what} is not reached by an open namespace: {reached:?}");
    }
    // The policies of ahoi-system still apply at the other end.
    ensure!(!reached.iter().any(|target| target.contains("metrics") || target.contains("fleet")), "{reached:?}");
    Ok(())
}

async fn as_developer(cluster: &Cluster, customer: &str) -> Result<Api<NetworkPolicy>> {
    let client = cluster.acting_as("dev", &[GROUP, "system:authenticated"]).await?;
    Ok(Api::namespaced(client, &namespace_of(customer)))
}

fn refused(outcome: kube::Result<()>, message: &str) -> Result<()> {
    let Err(kube::Error::Api(status)) = outcome else { bail!("not refused: {outcome:?}") };
    let by = "ValidatingAdmissionPolicy 'ahoi-tenant-network-policies'";
    let as_expected = status.code == 403 && status.message.contains(by) && status.message.contains(message);
    ensure!(as_expected, "refused for another reason: {status:?}");
    Ok(())
}
