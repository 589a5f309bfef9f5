//! The CloudNativePG cluster under test, installed from the files of the guide.

use std::fmt::Write as _;
use std::path::Path;

use ahoi_api::DatabaseServer;
use ahoi_e2e::{Cluster, SYSTEM};
use ahoi_reconcile::is_ready;
use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams};
use kube::runtime::wait::await_condition;
use kube::{Api, ResourceExt as _};
use serde_json::{Value, json};
use tokio::process::Command;
use tokio::time::{Duration, timeout};

/// Namespace of the Cluster.
pub const NAMESPACE: &str = "databases";
/// Name of the Cluster, and of the DatabaseServer with an ordinary admin role.
pub const NAME: &str = "pg-eu-1";
/// Name of a second DatabaseServer for the same Cluster whose admin role is a superuser, and label `region` of it.
pub const LOOKUP: &str = "eu-lookup";
/// Label `region` of the guide's DatabaseServer.
pub const REGION: &str = "eu";
/// Phase of a healthy Cluster.
const HEALTHY: &str = "Cluster in healthy state";
/// Seconds until a Cluster is healthy after all its instances were replaced, on a slow machine.
const SETTLED: u64 = 300;

/// The CloudNativePG cluster.
pub struct Engine {
    /// Kubernetes cluster.
    pub cluster: Cluster,
    clusters: Api<DynamicObject>,
}

impl Engine {
    /// Follows the guide, and waits until customers can be placed there. Existing objects stay.
    pub async fn install() -> Result<Engine> {
        let cluster = Cluster::connect().await?;
        let kind = ApiResource::from_gvk(&GroupVersionKind::gvk("postgresql.cnpg.io", "v1", "Cluster"));
        let clusters = Api::namespaced_with(cluster.client.clone(), NAMESPACE, &kind);
        let engine = Engine { cluster, clusters };
        script("prepare").await?;
        if engine.clusters.get_opt(NAME).await?.is_none() {
            let mut manifest: Value = serde_saphyr::from_str(&file("cluster.yaml")?)?;
            let image = std::env::var("CNPG_POSTGRES_IMAGE").context("CNPG_POSTGRES_IMAGE: run the test by e2e/run")?;
            manifest["spec"]["imageName"] = json!(image);
            engine.cluster.apply(&manifest.to_string()).await?;
        }
        engine.healthy().await?;
        engine.psql(&file("close.sql")?).await?;
        script("copy-ca").await?;
        engine.cluster.kubectl(&["apply", "--server-side", "-f", "-"], &file("server.yaml")?).await?;
        engine.cluster.until(&engine.cluster.all::<DatabaseServer>(), NAME, "Ready", 60, ready).await?;
        Ok(engine)
    }

    /// Creates a DatabaseServer for the same Cluster whose admin role may read password verifiers.
    pub async fn lookup_server(&self) -> Result<()> {
        let password = format!("e2e-{:016x}", std::process::id());
        let role = format!(
            "SELECT 'CREATE ROLE lookup LOGIN SUPERUSER' \
             WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'lookup') \\gexec\n\
             ALTER ROLE lookup PASSWORD '{password}';"
        );
        self.psql(&role).await?;
        let mut objects =
            json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": LOOKUP, "namespace": SYSTEM},
            "stringData": {"username": "lookup", "password": password}})
            .to_string();
        let server = json!({"apiVersion": "internal.example.com/v1", "kind": "DatabaseServer",
            "metadata": {"name": LOOKUP, "labels": {"region": LOOKUP}},
            "spec": {"host": "pg-eu-1-rw.databases.svc", "adminSecretRef": {"namespace": SYSTEM, "name": LOOKUP},
                "placement": "Selected", "tls": {"mode": "VerifyFull", "caSecretRef": {"name": "pg-eu-1-ca"}}}});
        write!(objects, "\n---\n{server}")?;
        self.cluster.apply(&objects).await?;
        self.cluster.until(&self.cluster.all::<DatabaseServer>(), LOOKUP, "Ready", 60, ready).await.map(drop)
    }

    /// Runs SQL as the superuser on the primary, like `kubectl cnpg psql`.
    pub async fn psql(&self, sql: &str) -> Result<String> {
        let primary = self.primary().await?;
        let exec = ["exec", "-i", "-n", NAMESPACE, &primary, "-c", "postgres", "--"];
        let psql = ["psql", "-AtX", "-v", "ON_ERROR_STOP=1"];
        self.cluster.kubectl(&[exec.as_slice(), &psql].concat(), sql).await
    }

    /// Sets primaryUpdateStrategy and smartShutdownTimeout. Defaults of CloudNativePG: unsupervised, 180.
    pub async fn configure(&self, strategy: &str, smart_shutdown_seconds: i32) -> Result<()> {
        let spec = json!({"primaryUpdateStrategy": strategy, "smartShutdownTimeout": smart_shutdown_seconds});
        let patch = Patch::Merge(json!({"spec": spec}));
        self.clusters.patch(NAME, &PatchParams::default(), &patch).await?;
        self.healthy().await
    }

    /// Returns the name of the pod of the primary.
    pub async fn primary(&self) -> Result<String> {
        let found = self.clusters.get_status(NAME).await?;
        let primary = found.data["status"]["currentPrimary"].as_str().map(ToOwned::to_owned);
        primary.context("the Cluster has no primary")
    }

    /// Switches over to another instance, like `kubectl cnpg promote`, and waits until it is the primary.
    pub async fn promote(&self) -> Result<()> {
        let primary = self.primary().await?;
        let instances = self.clusters.get_status(NAME).await?;
        let names = instances.data["status"]["instancesStatus"]["healthy"].as_array().cloned().unwrap_or_default();
        let others = names.iter().filter_map(Value::as_str).find(|name| *name != primary);
        let target = others.context("no other instance is healthy")?.to_owned();
        let status = json!({"status": {
            "targetPrimary": target, "targetPrimaryTimestamp": now(),
            "phase": "Switchover in progress", "phaseReason": format!("Switching over to {target}"),
        }});
        self.clusters.patch_status(NAME, &PatchParams::default(), &Patch::Merge(status)).await?;
        self.until("another primary", |status| status["currentPrimary"] == json!(target)).await
    }

    /// Requests a restart of all instances, like `kubectl cnpg restart`. Returns the annotation that their pods get.
    pub async fn restart(&self) -> Result<String> {
        let at = now();
        let annotation = json!({"metadata": {"annotations": {RESTARTED: at}}});
        self.clusters.patch(NAME, &PatchParams::default(), &Patch::Merge(annotation)).await?;
        Ok(at)
    }

    /// Waits until all instances have been restarted.
    pub async fn restarted(&self, at: &str) -> Result<()> {
        let pods = self.cluster.of::<Pod>(NAMESPACE);
        for number in 1..=3 {
            let done = |pod: Option<&Pod>| {
                pod.is_some_and(|pod| pod.annotations().get(RESTARTED).is_some_and(|found| found == at))
            };
            self.cluster.until(&pods, &format!("{NAME}-{number}"), "restarted", SETTLED, done).await?;
        }
        self.healthy().await
    }

    /// Waits until an update stops before the primary.
    pub async fn waits_for_user(&self) -> Result<()> {
        self.until("waiting for a switchover", |status| status["phase"] == json!("Waiting for user action")).await
    }

    /// Waits until all three instances are ready and the Cluster is healthy.
    pub async fn healthy(&self) -> Result<()> {
        let healthy = |status: &Value| {
            status["phase"] == json!(HEALTHY)
                && status["readyInstances"] == json!(3)
                && status["currentPrimary"] == status["targetPrimary"]
        };
        self.until("three instances are ready", healthy).await
    }

    async fn until(&self, what: &str, holds: impl Fn(&Value) -> bool) -> Result<()> {
        let holds = |found: Option<&DynamicObject>| found.is_some_and(|found| holds(&found.data["status"]));
        let waited = timeout(Duration::from_secs(SETTLED), await_condition(self.clusters.clone(), NAME, holds)).await;
        let Ok(found) = waited else {
            let status = self.clusters.get_status(NAME).await?;
            anyhow::bail!("Cluster {NAME} is not within {SETTLED} s: {what}: {:#}", status.data["status"]);
        };
        found.map(drop).map_err(Into::into)
    }
}

const RESTARTED: &str = "kubectl.kubernetes.io/restartedAt";

/// Returns the time in the format of CloudNativePG.
fn now() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string()
}

fn ready(server: Option<&DatabaseServer>) -> bool {
    server.is_some_and(is_ready)
}

/// Returns the file of the guide with this name.
fn file(name: &str) -> Result<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests/cloudnative-pg").join(name);
    std::fs::read_to_string(&path).with_context(|| path.display().to_string())
}

/// Runs a script of the guide, which runs `kubectl`.
pub async fn script(name: &str) -> Result<()> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests/cloudnative-pg").join(name);
    let kubectl = std::env::var("KUBECTL").unwrap_or_else(|_| "kubectl".to_owned());
    let folder = Path::new(&kubectl).parent().unwrap_or(Path::new(""));
    let search = format!("{}:{}", folder.display(), std::env::var("PATH").unwrap_or_default());
    let output = Command::new(&path).env("PATH", search).output().await?;
    ensure!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}
