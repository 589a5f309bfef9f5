//! What every scenario stands on: the cluster, what has been found so far, and customers by the hundred.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use ahoi_api::{Customer, Plan};
use ahoi_e2e::Cluster;
use ahoi_e2e::audit::{Audit, Request};
use ahoi_reconcile::is_ready;
use anyhow::{Context as _, Result};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, Resource, ResourceExt as _};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::profile::Profile;
use crate::results::Run;
use crate::usage::Usage;
use crate::watch::{Change, Seen};

/// The Plan of all customers of the benchmark.
pub const PLAN: &str = "bench";
/// How many of the requests that stand for people are in flight at once.
pub const AT_ONCE: usize = 32;
/// Longest wait for one step of a scenario, in seconds: on a busy machine, too.
pub const PATIENCE: u64 = 1800;

/// A run of the benchmark.
pub struct Bench {
    /// The cluster.
    pub cluster: Cluster,
    /// Its name.
    pub name: String,
    /// Where the programs to compare with are.
    pub peers: PathBuf,
    /// How much is measured.
    pub profile: Profile,
    /// What has been found.
    pub run: Run,
    /// What the processes had used before there was any customer.
    pub empty: Usage,
    /// Whether the suite's controllers run.
    pub suite_runs: bool,
    /// Whether this scenario is the last one: nobody minds what it leaves, the cluster goes.
    pub last: bool,
}

/// Where a span of time began: what was asked and used after it can be counted.
pub struct Start {
    /// The moment.
    pub at: Instant,
    audit: Audit,
    usage: Usage,
}

impl Start {
    /// What the suite has asked since.
    pub fn requests(&self) -> Result<Vec<Request>> {
        self.audit.since()
    }

    /// What the service accounts of `namespace` have asked since.
    pub fn requests_of(&self, namespace: &str) -> Result<Vec<Request>> {
        self.audit.since_of(namespace)
    }

    /// Seconds of CPU of each program since.
    pub fn cpu(&self, now: &Usage) -> BTreeMap<String, f64> {
        now.cpu_since(&self.usage)
    }
}

impl Bench {
    /// Here and now.
    pub fn start(&self) -> Result<Start> {
        Ok(Start { at: Instant::now(), audit: Audit::mark()?, usage: self.usage()? })
    }

    /// What the processes of the cluster have used.
    pub fn usage(&self) -> Result<Usage> {
        Usage::now(&self.name)
    }

    /// Has the suite's controllers run, by processes that have seen no customer if they did not.
    pub async fn with_suite(&mut self) -> Result<()> {
        if !self.suite_runs {
            self.cluster.start_all().await?;
            self.empty = self.usage()?;
            self.suite_runs = true;
        }
        Ok(())
    }

    /// Stops the suite's controllers: what is made next is nobody's.
    pub async fn without_suite(&mut self) -> Result<()> {
        if self.suite_runs {
            self.cluster.stop_all().await?;
            self.suite_runs = false;
        }
        Ok(())
    }

    /// Has the customers of `set` gone, unless nothing comes after them.
    pub async fn leave(&mut self, set: &str) -> Result<()> {
        if self.last {
            return Ok(());
        }
        self.without_suite().await?;
        self.clear(set).await
    }

    /// Makes the Plan of the benchmark: the demo's, with a job that never runs.
    pub async fn make_plan(&self) -> Result<()> {
        let plans: Api<Plan> = self.cluster.all();
        let demo = plans.get("default").await.context("the Plan `default` of manifests/demo/plan")?;
        let mut spec = serde_json::to_value(&demo.spec)?;
        spec["features"]["scheduler"]["jobs"] =
            json!([{"name": "yearly", "schedule": "0 0 1 1 *", "command": ["/bin/true"]}]);
        let plan = json!({"apiVersion": ahoi_api_version(), "kind": "Plan", "metadata": {"name": PLAN}, "spec": spec});
        plans.patch(PLAN, &PatchParams::apply("ahoi-bench").force(), &Patch::Apply(&plan)).await?;
        Ok(())
    }

    /// Makes the customers `names`, many at once, and tells when each was sent.
    pub async fn make(&self, names: &[String], spec: &Value) -> Result<BTreeMap<String, Instant>> {
        let customers = self.cluster.customers();
        let sent = stream::iter(names.iter().map(|name| {
            let customers = customers.clone();
            async move {
                let customer = Customer::new(name, serde_json::from_value(spec.clone())?);
                let sent = Instant::now();
                customers.create(&PostParams::default(), &customer).await?;
                anyhow::Ok((name.clone(), sent))
            }
        }));
        sent.buffer_unordered(AT_ONCE).try_collect().await
    }

    /// Watches for customers of `set` to become Ready.
    pub async fn watch_ready(&self, set: &str) -> Result<Seen> {
        let prefix = format!("{set}-");
        let notable = move |change: Change<'_, Customer>| match change {
            Change::Is(customer) if customer.name_any().starts_with(&prefix) && is_ready(customer) => {
                Some(customer.name_any())
            }
            _ => None,
        };
        Seen::by(self.cluster.customers(), notable).await
    }

    /// Deletes the objects `names` and waits until they are gone; when each was.
    pub async fn remove<K>(&self, objects: Api<K>, names: &[String]) -> Result<BTreeMap<String, Instant>>
    where
        K: Resource + Clone + Debug + Send + DeserializeOwned + 'static,
    {
        let wanted: BTreeSet<String> = names.iter().cloned().collect();
        let gone = move |change: Change<'_, K>| match change {
            Change::Gone(object) => Some(object.name_any()).filter(|name| wanted.contains(name)),
            Change::Is(_) => None,
        };
        let mut gone = Seen::by(objects.clone(), gone).await?;
        let delete = |name: &String| {
            let (objects, name) = (objects.clone(), name.clone());
            async move { objects.delete(&name, &DeleteParams::default()).await.map(drop) }
        };
        stream::iter(names.iter().map(delete)).buffer_unordered(AT_ONCE).try_collect::<()>().await?;
        gone.all(names.len(), "objects gone", PATIENCE).await
    }

    /// Waits until no service account of `namespace` has written for `seconds`: silence is the condition, so time is what
    /// must pass.
    pub async fn quiet(&self, namespace: &str, seconds: u64) -> Result<()> {
        let quiet = async {
            loop {
                let mark = Audit::mark()?;
                tokio::time::sleep(Duration::from_secs(seconds)).await;
                if !mark.since_of(namespace)?.iter().any(Request::is_write) {
                    return anyhow::Ok(());
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(PATIENCE), quiet).await.context("never quiet")?
    }
}

/// Names of the customers of `set`.
pub fn names(set: &str, n: usize) -> Vec<String> {
    (0..n).map(|i| format!("{set}-{i:05}")).collect()
}

/// The API version of the suite's kinds.
pub fn ahoi_api_version() -> String {
    format!("{}/v1", ahoi_api::GROUP)
}

/// A customer without a database: what is left is the fan-out alone. No pod runs, so that the operators are measured and not
/// what comes after them.
pub fn fan_out_spec() -> Value {
    json!({
        "plan": PLAN,
        "groups": [{"group": "bench-developers", "role": "Edit"}],
        "features": {
            "database": {"enabled": false},
            "connectionPool": {"enabled": false},
            "scheduler": {"enabled": true, "workers": 0},
        },
    })
}

/// A customer with everything, its worker on a simulated node.
pub fn whole_spec() -> Value {
    json!({
        "plan": PLAN,
        "deletionPolicy": "Delete",
        "groups": [{"group": "bench-developers", "role": "Edit"}],
        "features": {
            "database": {"enabled": true, "storage": "1gb"},
            "scheduler": {"enabled": true, "workers": 1},
        },
    })
}
