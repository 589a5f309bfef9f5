//! The three example operators of the reconcile crate, run as documented.

use std::path::PathBuf;
use std::process::Stdio;

use ahoi_e2e::Cluster;
use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::batch::v1::CronJob;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Secret};
use k8s_openapi::api::events::v1::Event;
use kube::ResourceExt;
use kube::api::{ListParams, ObjectMeta, PostParams};
use kube::runtime::{WatchStreamExt as _, watcher};
use tokio::process::{Child, Command};

/// A running example. It ends with the test.
struct Example {
    program: PathBuf,
    process: Option<Child>,
}

impl Example {
    fn new(name: &str) -> Result<Self> {
        let dir = std::env::var_os("EXAMPLES").context("EXAMPLES is not set: run e2e/run")?;
        Ok(Self { program: PathBuf::from(dir).join(name), process: None })
    }

    async fn definition(&self, cluster: &Cluster, name: &str) -> Result<()> {
        let crd = Command::new(&self.program).arg("crd").output().await?;
        cluster.apply(&String::from_utf8(crd.stdout)?).await?;
        cluster
            .kubectl(&["wait", "--for=condition=Established", &format!("crd/{name}"), "--timeout=30s"], "")
            .await
            .map(drop)
    }

    /// Starts the example with the metrics on any free port.
    fn start(&mut self, args: &[&str]) -> Result<()> {
        let process = Command::new(&self.program)
            .args(["--leader-elect=false", "--metrics-address=127.0.0.1:0"])
            .args(args)
            .stdout(Stdio::inherit())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("{}", self.program.display()))?;
        self.process = Some(process);
        Ok(())
    }
}

async fn namespace(cluster: &Cluster, name: &str) -> Result<()> {
    cluster.delete(&cluster.all::<Namespace>(), name, 60).await?;
    let metadata = ObjectMeta { name: Some(name.into()), ..ObjectMeta::default() };
    cluster.all::<Namespace>().create(&PostParams::default(), &Namespace { metadata, ..Namespace::default() }).await?;
    Ok(())
}

#[tokio::test]
async fn todo_adds_modifies_and_deletes() -> Result<()> {
    let cluster = Cluster::connect().await?;
    namespace(&cluster, "example-todo").await?;
    let mut todo = Example::new("todo")?;
    todo.definition(&cluster, "todos.examples.internal.example.com").await?;
    todo.start(&[])?;
    let list = |items: &str| {
        format!(
            "{{apiVersion: examples.internal.example.com/v1, kind: Todo, metadata: {{name: home, namespace: example-todo}}, spec: {{items: {items}}}}}"
        )
    };
    let lists = cluster.of::<ConfigMap>("example-todo");
    let has = |expected: &'static [&'static str]| {
        move |l: Option<&ConfigMap>| {
            l.is_some_and(|l| l.data.iter().flatten().map(|(k, _)| k.as_str()).eq(expected.iter().copied()))
        }
    };
    cluster.apply(&list("[{name: milk, text: buy it}, {name: tax}]")).await?;
    cluster.until(&lists, "home", "two items are open", 30, has(&["milk", "tax"])).await?;
    cluster.apply(&list("[{name: milk, text: buy it, done: true}, {name: tax}]")).await?;
    cluster.until(&lists, "home", "one item is open", 30, has(&["tax"])).await?;
    cluster.apply(&list("[{name: milk, done: true}, {name: tax, done: true}]")).await?;
    cluster.until_gone(&lists, "home", 30).await?;
    let refused = cluster.apply(&list("[{name: Not A Name}]")).await.err().map(|e| e.to_string()).unwrap_or_default();
    ensure!(refused.contains("spec.items[0].name"), "the schema does not deny it: {refused:?}");
    cluster.kubectl(&["delete", "crd", "todos.examples.internal.example.com"], "").await?;
    cluster.delete(&cluster.all::<Namespace>(), "example-todo", 60).await
}

#[tokio::test]
async fn jobs_are_created_updated_and_deleted() -> Result<()> {
    let cluster = Cluster::connect().await?;
    namespace(&cluster, "example-crontab").await?;
    let mut crontab = Example::new("crontab")?;
    crontab.definition(&cluster, "crontabs.examples.internal.example.com").await?;
    crontab.start(&[])?;
    let table = |entries: &str| {
        format!(
            "{{apiVersion: examples.internal.example.com/v1, kind: Crontab, metadata: {{name: nightly, namespace: example-crontab}}, spec: {{image: none, entries: {entries}}}}}"
        )
    };
    let jobs = cluster.of::<CronJob>("example-crontab");
    let schedule = |expected: &'static str| {
        move |j: Option<&CronJob>| j.and_then(|j| j.spec.as_ref()).is_some_and(|s| s.schedule == expected)
    };
    cluster
        .apply(&table("[{name: a, schedule: '0 1 * * *', command: a}, {name: b, schedule: '0 2 * * *', command: b}]"))
        .await?;
    cluster.until(&jobs, "nightly-a", "added", 30, schedule("0 1 * * *")).await?;
    let kept = cluster.until(&jobs, "nightly-b", "added", 30, schedule("0 2 * * *")).await?.context("vanished")?;
    cluster
        .apply(&table("[{name: b, schedule: '0 3 * * *', command: b}, {name: c, schedule: '0 4 * * *', command: c}]"))
        .await?;
    let updated = cluster.until(&jobs, "nightly-b", "updated", 30, schedule("0 3 * * *")).await?.context("vanished")?;
    ensure!(updated.uid() == kept.uid(), "a changed entry was recreated");
    cluster.until(&jobs, "nightly-c", "added", 30, schedule("0 4 * * *")).await?;
    cluster.until_gone(&jobs, "nightly-a", 30).await?;
    cluster.kubectl(&["delete", "crd", "crontabs.examples.internal.example.com"], "").await?;
    cluster.delete(&cluster.all::<Namespace>(), "example-crontab", 60).await
}

#[tokio::test]
async fn the_auditor_example_deletes_only_when_enabled() -> Result<()> {
    let cluster = Cluster::connect().await?;
    namespace(&cluster, "example-auditor").await?;
    let secrets = cluster.of::<Secret>("example-auditor");
    for (name, password) in [("weak", "sh0rt"), ("strong", "long-enough-for-most")] {
        let metadata = ObjectMeta { name: Some(name.into()), ..ObjectMeta::default() };
        let string_data = Some([("password".to_owned(), password.to_owned())].into());
        secrets.create(&PostParams::default(), &Secret { metadata, string_data, ..Secret::default() }).await?;
    }
    {
        let mut auditor = Example::new("password_auditor")?;
        auditor.start(&[])?;
        weak_password_event(&cluster).await?;
    }
    ensure!(secrets.get_opt("weak").await?.is_some(), "deleted without --delete");
    // --namespace keeps the example away from Secrets of other tests.
    let mut auditor = Example::new("password_auditor")?;
    auditor.start(&["--namespace=example-auditor", "--delete"])?;
    cluster.until_gone(&secrets, "weak", 30).await?;
    ensure!(secrets.get_opt("strong").await?.is_some());
    let events = cluster.of::<Event>("example-auditor").list(&ListParams::default()).await?;
    ensure!(events.iter().all(|e| e.regarding.as_ref().and_then(|r| r.name.as_deref()) != Some("strong")));
    cluster.delete(&cluster.all::<Namespace>(), "example-auditor", 60).await
}

/// Waits for the event about the weak Secret. It must not contain the password.
async fn weak_password_event(cluster: &Cluster) -> Result<()> {
    use futures::{StreamExt as _, TryStreamExt as _};
    let events = watcher(cluster.of::<Event>("example-auditor"), watcher::Config::default());
    let mut events = events.default_backoff().applied_objects().boxed();
    let found = async {
        while let Some(event) = events.try_next().await? {
            if event.reason.as_deref() == Some("WeakPassword") {
                ensure!(event.regarding.and_then(|r| r.name).as_deref() == Some("weak"));
                let note = event.note.unwrap_or_default();
                ensure!(note.contains("password") && !note.contains("sh0rt"), "{note}");
                return Ok(());
            }
        }
        anyhow::bail!("the watch of events ended")
    };
    tokio::time::timeout(std::time::Duration::from_secs(30), found).await.context("no event about the weak password")?
}
