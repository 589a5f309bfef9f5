//! A crontab as one object: creates, updates and deletes a CronJob for each entry.
//!
//! ```sh
//! cargo run --example crontab -- crd | kubectl apply -f -
//! cargo run --example crontab -- --leader-elect=false
//! ```

use ahoi_reconcile::conditions::{Condition, set_verdict};
use ahoi_reconcile::{Controller, Error, Owned, Platform, Progress, Reconciler, Runnable, Verdict, conditioned};
use k8s_openapi::api::batch::v1::CronJob;
use kube::{CustomResource, CustomResourceExt, KubeSchema, ResourceExt};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug)]
#[kube(group = "examples.internal.example.com", version = "v1", kind = "Crontab", namespaced, status = "CrontabStatus")]
struct CrontabSpec {
    /// Image of all jobs.
    image: String,
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    #[schemars(length(max = 100))]
    entries: Vec<Entry>,
}

#[derive(Serialize, Deserialize, Clone, Debug, JsonSchema)]
struct Entry {
    #[schemars(length(max = 20), regex(pattern = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    name: String,
    /// Schedule as in crontab(5): "*/5 * * * *"
    schedule: String,
    /// Command line for `sh -c`
    command: String,
}

#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct CrontabStatus {
    observed_generation: Option<i64>,
    #[serde(default)]
    conditions: Vec<Condition>,
}

conditioned!(Crontab: CrontabStatus);

struct CrontabController {
    jobs: Owned<CronJob>,
}

impl Reconciler for CrontabController {
    type Kind = Crontab;
    const NAME: &'static str = "crontab";

    async fn reconcile(&self, crontab: &Crontab) -> Result<Progress<CrontabStatus>, Error> {
        let desired = desired(crontab)?;
        let verdict = Verdict::ready(format!("{} entries", desired.len()));
        self.jobs.prune(crontab, |job| desired.iter().any(|wanted| wanted.name_any() == job.name_any())).await?;
        for job in desired {
            self.jobs.apply(crontab, job).await?;
        }
        let mut status = crontab.status.clone().unwrap_or_default();
        set_verdict(&mut status.conditions, crontab.metadata.generation, verdict);
        Ok(Progress::new(status))
    }
}

fn desired(crontab: &Crontab) -> Result<Vec<CronJob>, Error> {
    let job = |entry: &Entry| {
        let container = json!({"name": "job", "image": crontab.spec.image, "command": ["sh", "-c", entry.command]});
        let pod = json!({"restartPolicy": "Never", "containers": [container]});
        serde_json::from_value(json!({
            "metadata": {"name": format!("{}-{}", crontab.name_any(), entry.name)},
            "spec": {
                "schedule": entry.schedule,
                "concurrencyPolicy": "Forbid",
                "jobTemplate": {"spec": {"template": {"spec": pod}}},
            },
        }))
    };
    let jobs = crontab.spec.entries.iter().map(job).collect::<Result<_, _>>();
    jobs.map_err(|error| Error::terminal("InvalidEntry", error.to_string()))
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    if std::env::args().nth(1).as_deref() == Some("crd") {
        println!("{}", serde_json::to_string_pretty(&Crontab::crd())?);
        return Ok(());
    }
    ahoi_reconcile::run("crontab", async |platform: Platform| -> anyhow::Result<Vec<Runnable>> {
        let crontabs = platform.watch_all::<Crontab>();
        let jobs = platform.watch_all();
        let jobs = Owned::new(&platform, &jobs);
        Ok(vec![Controller::new(&platform, &crontabs).owns(&jobs).run(CrontabController { jobs })])
    })
    .await
}
