//! Basis of all scenarios: the cluster, the results so far, and many customers.

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

/// Plan of all customers of the benchmark.
pub const PLAN: &str = "bench";
/// Number of requests of the benchmark in flight.
pub const AT_ONCE: usize = 32;
/// Longest wait for a step of a scenario in seconds, also on a busy machine.
pub const STEP_TIMEOUT: u64 = 1800;

/// Run of the benchmark.
pub struct Bench {
    /// Cluster.
    pub cluster: Cluster,
    /// Name of the cluster.
    pub name: String,
    /// Folder of the peers' programs.
    pub peers: PathBuf,
    /// Profile.
    pub profile: Profile,
    /// Results so far.
    pub run: Run,
    /// Usage of the processes without customers.
    pub empty: Usage,
    /// Whether the controllers run.
    pub is_running: bool,
    /// Whether this is the last scenario, which needs no cleanup.
    pub last: bool,
}

/// Start of a measurement, to count requests and usage since.
pub struct Start {
    /// Time.
    pub at: Instant,
    audit: Audit,
    usage: Usage,
}

impl Start {
    /// Returns the requests of the controllers since.
    pub fn requests(&self) -> Result<Vec<Request>> {
        self.audit.since()
    }

    /// Returns the requests of the ServiceAccounts of `namespace` since.
    pub fn requests_of(&self, namespace: &str) -> Result<Vec<Request>> {
        self.audit.since_of(namespace)
    }

    /// Returns the CPU seconds of each program since.
    pub fn cpu(&self, now: &Usage) -> BTreeMap<String, f64> {
        now.cpu_since(&self.usage)
    }
}

impl Bench {
    /// Starts a measurement.
    pub fn start(&self) -> Result<Start> {
        Ok(Start { at: Instant::now(), audit: Audit::mark()?, usage: self.usage()? })
    }

    /// Returns the usage of the processes of the cluster.
    pub fn usage(&self) -> Result<Usage> {
        Usage::now(&self.name)
    }

    /// Starts the controllers, unless they run.
    pub async fn start_controllers(&mut self) -> Result<()> {
        if !self.is_running {
            self.cluster.start_all().await?;
            self.empty = self.usage()?;
            self.is_running = true;
        }
        Ok(())
    }

    /// Stops the controllers.
    pub async fn stop_controllers(&mut self) -> Result<()> {
        if self.is_running {
            self.cluster.stop_all().await?;
            self.is_running = false;
        }
        Ok(())
    }

    /// Deletes the customers of `set`, unless this is the last scenario.
    pub async fn finish(&mut self, set: &str) -> Result<()> {
        if self.last {
            return Ok(());
        }
        self.stop_controllers().await?;
        self.clear(set).await
    }

    /// Creates the Plan of the benchmark: that of the demo, with a job that never runs.
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

    /// Creates the customers `names` concurrently. Returns when each was sent.
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

    /// Deletes the objects `names`. Returns when each was deleted.
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
        gone.all(names.len(), "objects deleted", STEP_TIMEOUT).await
    }

    /// Waits until no ServiceAccount of `namespace` has written for `seconds`. The absence of writes needs time to pass.
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
        tokio::time::timeout(Duration::from_secs(STEP_TIMEOUT), quiet).await.context("writes do not end")?
    }
}

/// Returns the names of the customers of `set`.
pub fn names(set: &str, n: usize) -> Vec<String> {
    (0..n).map(|i| format!("{set}-{i:05}")).collect()
}

/// API version of our kinds.
pub fn ahoi_api_version() -> String {
    format!("{}/v1", ahoi_api::GROUP)
}

/// Spec of a customer without a database: only the fan-out. No pods run, so that only the operators are measured.
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

/// Spec of a customer with all features and a worker on a simulated node.
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
