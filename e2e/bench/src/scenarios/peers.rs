//! Peers that create the same objects on the same cluster: a parent on controller-runtime (peers/parent) and kro, default limits and
//! with its limits raised.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use kube::api::{DynamicObject, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Api, ResourceExt as _};
use serde_json::{Value, json};
use tokio::process::{Child, Command};

use super::labels::{FAN_OUT, FAN_OUT_PLOT};
use super::{QUIET, convergence, is_control_plane, latencies};
use crate::accounts::{self, NAMESPACE};
use crate::bench::{AT_ONCE, Bench, STEP_TIMEOUT, names};
use crate::recorded::{NAME, Recorded};
use crate::usage::sum;
use crate::watch::{Change, Seen};

/// Seconds after a restart in which a peer reconciles everything.
const AFTER_RESTART: u64 = 20;

/// Row of the report.
pub const MULTIPLE: &str = "rate of Ahoi as a multiple of this";
/// Row of the report.
pub const MEMORY: &str = "memory beyond that without customers, per customer";
/// Name of a peer: the prefix of its scenario.
pub const PARENT: &str = "a parent on controller-runtime";
/// Name of a peer: the prefix of its scenario.
pub const KRO_RAISED: &str = "kro, raised limits";

/// Peer.
struct Peer {
    name: &'static str,
    /// Program, and name of its ServiceAccount.
    program: &'static str,
    arguments: Vec<String>,
    /// Prefix of its objects.
    set: &'static str,
    kind: ApiResource,
    ready: fn(&Value) -> bool,
}

impl Peer {
    fn api(&self, bench: &Bench) -> Api<DynamicObject> {
        Api::all_with(bench.cluster.client.clone(), &self.kind)
    }

    /// Starts the peer as a process of the cluster, with all rights.
    async fn start(&self, bench: &Bench, kubeconfig: &PathBuf, log: &PathBuf) -> Result<Child> {
        let inside = std::env::var("BENCH_INSIDE").context("BENCH_INSIDE is not set: run e2e/bench/run")?;
        let out = File::options().create(true).append(true).open(log)?;
        let mut command = Command::new(inside);
        command.arg(&bench.name).arg(bench.peers.join(self.program)).args(&self.arguments);
        command
            .env("KUBECONFIG", kubeconfig)
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out)
            .kill_on_drop(true);
        command.spawn().with_context(|| format!("cannot start {}", self.program))
    }
}

/// Objects that the peers create, and the folder of their logs.
pub struct Peers {
    children: Vec<Value>,
    folder: PathBuf,
}

impl Peers {
    /// Writes the objects to files.
    pub fn prepare(bench: &Bench, recorded: &Recorded) -> Result<Peers> {
        let peers = Peers {
            children: recorded.children()?,
            folder: std::env::current_dir()?.join(".bench").join(format!("peers-{}", bench.name)),
        };
        fs::create_dir_all(&peers.folder)?;
        let children = peers.children.iter().map(|child| format!("{child}\n"));
        fs::write(peers.children_file(), children.collect::<String>())?;
        Ok(peers)
    }

    /// The parent on controller-runtime; `ours` is the rate of Ahoi to compare with it.
    pub async fn parent(&self, bench: &mut Bench, ours: f64) -> Result<()> {
        bench.cluster.apply(TENANTS).await?;
        established(bench, "tenants.bench.internal.example.com").await?;
        self.measure(bench, &parent(&self.children_file()), ours).await
    }

    /// Kro, as it comes if the profile has the time, and with its limits raised.
    pub async fn kro(&self, bench: &mut Bench, ours: f64) -> Result<()> {
        let definitions = fs::read_to_string(bench.peers.join("kro-crds.yaml"))?;
        bench.cluster.kubectl(&["apply", "--server-side", "-f", "-"], &definitions).await?;
        established(bench, "resourcegraphdefinitions.kro.run").await?;
        bench.cluster.apply(&graph(&self.children).to_string()).await?;
        if bench.profile.thorough {
            self.measure(bench, &kro("kro, default limits", "kro", &[]), ours).await?;
        }
        self.measure(bench, &kro(KRO_RAISED, "krotuned", RAISED), ours).await
    }

    /// Deletes the files and logs.
    pub fn remove(self) -> Result<()> {
        Ok(fs::remove_dir_all(&self.folder)?)
    }

    fn children_file(&self) -> PathBuf {
        self.folder.join("children.json")
    }

    async fn measure(&self, bench: &mut Bench, peer: &Peer, ours: f64) -> Result<()> {
        let measured = measure(bench, peer, &self.folder, ours).await;
        measured.with_context(|| format!("{}: its log is in {}", peer.name, self.folder.display()))
    }
}

async fn established(bench: &Bench, definition: &str) -> Result<()> {
    let definition = format!("crd/{definition}");
    let wait = ["wait", "--for=condition=Established", "--timeout=60s", &definition];
    bench.cluster.kubectl(&wait, "").await.map(drop)
}

/// Measures a peer with the customers of the profile, and its restart.
async fn measure(bench: &mut Bench, peer: &Peer, folder: &Path, ours: f64) -> Result<()> {
    let n = bench.profile.compare;
    let scenario = format!("{}: {n} customers at once, {FAN_OUT}", peer.name);
    println!("{scenario}");
    let kubeconfig = accounts::kubeconfig_file(bench, peer.program, folder).await?;
    let log = folder.join(format!("{}.log", peer.set));
    let mut process = peer.start(bench, &kubeconfig, &log).await?;
    if peer.program == "kro" {
        // The kind exists only then.
        let wait = ["wait", "--for=condition=Ready", "--timeout=60s", GRAPH];
        bench.cluster.kubectl(&wait, "").await.context("kro did not accept the ResourceGraphDefinition")?;
    }
    // The first object is not measured: it fills caches and starts watches.
    let first = format!("{}-first", peer.set);
    let mut warm = ready(bench, peer, &first).await?;
    make(bench, peer, std::slice::from_ref(&first)).await?;
    warm.all(1, "the first object ready", 180).await?;
    bench.quiet(NAMESPACE, QUIET).await?;
    let empty = bench.usage()?.memory(|program| program == peer.program);

    let mut ready = ready(bench, peer, &format!("{}-0", peer.set)).await?;
    let start = bench.start()?;
    let sent = make(bench, peer, &names(peer.set, n)).await?;
    let ready = ready.all(n, "objects ready", STEP_TIMEOUT).await?;
    let last = ready.values().max().context("none")?.saturating_duration_since(start.at).as_secs_f64();
    bench.quiet(NAMESPACE, QUIET).await?;
    let now = bench.usage()?;
    let requests = start.requests_of(NAMESPACE)?;
    let (cpu, each) = (start.cpu(&now), |value: f64| value / n as f64);

    bench.run.value(&scenario, "until the last is ready", "s", last);
    bench.run.value(&scenario, "rate", "customers/s", n as f64 / last);
    bench.latency(&scenario, "created → ready", latencies(&sent, &ready));
    bench.run.curve(FAN_OUT_PLOT, peer.name, convergence(start.at, &ready));
    let writes = requests.iter().filter(|request| request.is_write()).count();
    let reads = requests.iter().filter(|request| request.is_single_read()).count();
    bench.run.value(&scenario, "writes per customer", "requests", each(writes as f64));
    bench.run.value(&scenario, "reads of single objects per customer", "requests", each(reads as f64));
    bench.run.value(&scenario, "CPU per customer", "ms", each(sum(&cpu, |p| p == peer.program)) * 1e3);
    bench.run.value(
        &scenario,
        "CPU of API server and etcd per customer",
        "ms",
        each(sum(&cpu, is_control_plane)) * 1e3,
    );
    let memory = now.memory(|program| program == peer.program);
    bench.run.value(&scenario, "memory", "MB", memory / 1e6);
    bench.run.value(&scenario, MEMORY, "kB", each(memory - empty) / 1e3);
    bench.run.value(&scenario, MULTIPLE, "×", ours * last / n as f64);

    process.kill().await?;

    // Once is enough, because it counts requests.
    let what = "writes per customer at a restart";
    if bench.profile.thorough && bench.run.find(&scenario, what).is_none() {
        let restart = bench.start()?;
        let mut process = peer.start(bench, &kubeconfig, &log).await?;
        // The absence of writes needs time to pass.
        tokio::time::sleep(Duration::from_secs(AFTER_RESTART)).await;
        let requests = restart.requests_of(NAMESPACE)?;
        let writes = requests.iter().filter(|request| request.is_write()).count();
        bench.run.value(&scenario, what, "requests", each(writes as f64));
        process.kill().await?;
    }
    bench.clear(peer.set).await
}

/// Watches for objects of a peer with this prefix to become ready.
async fn ready(bench: &Bench, peer: &Peer, prefix: &str) -> Result<Seen> {
    let (prefix, ready) = (prefix.to_owned(), peer.ready);
    let notable = move |change: Change<'_, DynamicObject>| match change {
        Change::Is(object) if ready(&object.data) => Some(object.name_any()).filter(|name| name.starts_with(&prefix)),
        _ => None,
    };
    Seen::by(peer.api(bench), notable).await
}

async fn make(bench: &Bench, peer: &Peer, names: &[String]) -> Result<BTreeMap<String, Instant>> {
    let sent = stream::iter(names.iter().map(|name| {
        let (api, kind, name) = (peer.api(bench), peer.kind.clone(), name.clone());
        async move {
            let object = DynamicObject::new(&name, &kind).data(json!({"spec": {"plan": "bench"}}));
            let sent = Instant::now();
            // A definition is served slightly later.
            let created = api.create(&PostParams::default(), &object).await;
            created.with_context(|| format!("{} {name}", kind.kind))?;
            anyhow::Ok((name, sent))
        }
    }));
    sent.buffer_unordered(AT_ONCE).try_collect().await
}

fn parent(children: &Path) -> Peer {
    Peer {
        name: PARENT,
        program: "parent",
        arguments: vec!["--workers=16".into(), format!("--children={}", children.display())],
        set: "parent",
        kind: ApiResource::from_gvk(&GroupVersionKind::gvk("bench.internal.example.com", "v1", "Tenant")),
        ready: |object| object["status"]["ready"] == true,
    }
}

/// Name of the ResourceGraphDefinition.
const GRAPH: &str = "resourcegraphdefinition/benchtenants.kro.run";
/// Limits that a user would raise for speed.
const RAISED: &[&str] = &[
    "--dynamic-controller-concurrent-reconciles=32",
    "--client-qps=2000",
    "--client-burst=4000",
    "--dynamic-controller-rate-limiter-rate-limit=2000",
    "--dynamic-controller-rate-limiter-burst-limit=4000",
];

fn kro(name: &'static str, set: &'static str, more: &[&str]) -> Peer {
    // Log settings of its chart. The ports are not used.
    let always =
        ["--zap-devel=false", "--zap-log-level=info", "--metrics-bind-address=0", "--health-probe-bind-address=0"];
    Peer {
        name,
        program: "kro",
        arguments: always.iter().chain(more).map(ToString::to_string).collect(),
        set,
        kind: ApiResource::from_gvk(&GroupVersionKind::gvk("kro.run", "v1alpha1", "BenchTenant")),
        ready: |object| object["status"]["state"] == "ACTIVE",
    }
}

/// Returns the same children as a ResourceGraphDefinition: the namespace first, and references to it.
fn graph(children: &[Value]) -> Value {
    let namespaced = format!("customer-{NAME}");
    let resources = children.iter().enumerate().map(|(number, child)| {
        let mut child = child.clone();
        // kro refuses a status, which it does not write.
        child.as_object_mut().map(|child| child.remove("status"));
        let id = if child["kind"] == "Namespace" { "tenantNamespace".to_owned() } else { format!("child{number}") };
        if child["metadata"]["namespace"] == json!(namespaced) {
            child["metadata"]["namespace"] = json!("${tenantNamespace.metadata.name}");
        }
        let template: Value =
            serde_json::from_str(&child.to_string().replace(NAME, "${schema.metadata.name}")).unwrap_or_default();
        json!({"id": id, "template": template})
    });
    json!({
        "apiVersion": "kro.run/v1alpha1",
        "kind": "ResourceGraphDefinition",
        "metadata": {"name": "benchtenants.kro.run"},
        "spec": {
            "schema": {"apiVersion": "v1alpha1", "kind": "BenchTenant", "scope": "Cluster", "spec": {"plan": "string"}},
            "resources": resources.collect::<Vec<_>>(),
        },
    })
}

const TENANTS: &str = r#"
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: tenants.bench.internal.example.com}
spec:
  group: bench.internal.example.com
  names: {kind: Tenant, plural: tenants}
  scope: Cluster
  versions:
    - name: v1
      served: true
      storage: true
      subresources: {status: {}}
      schema:
        openAPIV3Schema:
          type: object
          properties:
            spec: {type: object, properties: {plan: {type: string}}}
            status: {type: object, properties: {ready: {type: boolean}}}
"#;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_graph_refers_to_its_namespace() {
        let namespace = json!({"kind": "Namespace", "metadata": {"name": format!("customer-{NAME}")}});
        let quota =
            json!({"kind": "ResourceQuota", "metadata": {"name": NAME, "namespace": format!("customer-{NAME}")}});
        let graph = graph(&[namespace, quota]);
        let resources = &graph["spec"]["resources"];
        assert_eq!(resources[0]["id"], "tenantNamespace");
        assert_eq!(resources[0]["template"]["metadata"]["name"], "customer-${schema.metadata.name}");
        assert_eq!(resources[1]["template"]["metadata"]["name"], "${schema.metadata.name}");
        assert_eq!(resources[1]["template"]["metadata"]["namespace"], "${tenantNamespace.metadata.name}");
    }
}
