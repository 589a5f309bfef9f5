//! Faults are reported on the Customer: in a condition and in the STATUS column, with the field to correct.

use ahoi_api::{Customer, Plan, PlanSpec, namespace_of};
use ahoi_e2e::Cluster;
use ahoi_e2e::customers::{READY, has_condition, summary};
use ahoi_e2e::messages::contains_all;
use ahoi_reconcile::conditions;
use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::batch::v1::CronJob;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::jiff::Timestamp;
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

fn message(customer: &Customer, type_: &str) -> String {
    let conditions = customer.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    conditions::find(conditions, type_).map(|c| c.message.clone()).unwrap_or_default()
}

/// A failed job does not make the customer unready, and is in its STATUS column.
#[tokio::test]
async fn a_failed_job_is_reported_on_the_customer() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let name = "truth-job";
    let jobs = json!([{"name": "report", "schedule": "0 3 1 1 *", "command": ["ahoi-demo-worker", "report"]}]);
    let features = json!({"scheduler": {"enabled": true, "workers": 0, "jobs": jobs}});
    cluster.create_customer(name, features).await?;
    let customer = cluster.ready(name).await?;
    ensure!(has_condition(&customer, "JobsHealthy", "True", "AllHealthy"), "JobsHealthy is not on the customer");
    ensure!(message(&customer, "Ready") == "all features are ready");

    // Written as Kubernetes does after a failed run.
    let crons = cluster.of::<CronJob>(&namespace_of(name));
    let ran = json!({"status": {"lastScheduleTime": Timestamp::now().to_string()}});
    crons.patch_status("report", &PatchParams::default(), &Patch::Merge(ran)).await?;
    let failed = cluster.condition(name, "JobsHealthy", "False", "JobFailed").await?;
    ensure!(has_condition(&failed, "Ready", "True", "Ready"), "a failed job makes the customer unready");
    let status = message(&failed, "Ready");
    ensure!(status.contains("report") && status.contains("kubectl -n customer-truth-job get jobs"), "{status:?}");

    let off = cluster.change(name, json!({"features": {"scheduler": {"enabled": false}}})).await?;
    let left = off.status.context("no status")?.conditions.into_iter().find(|c| c.type_ == "JobsHealthy");
    ensure!(left.is_none(), "{left:?}");
    cluster.delete_customer(name).await
}

/// A feature that this release does not have is not ready.
#[tokio::test]
async fn an_unavailable_feature_is_not_ready() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let name = "truth-webhooks";
    let features = json!({"scheduler": {"enabled": true, "workers": 0}, "webhooks": {"enabled": true}});
    cluster.create_customer(name, features).await?;
    let customer = cluster.ready(name).await?;
    let status = message(&customer, "Ready");
    ensure!(summary(&customer) == "1/2" && status.contains("1 of 2 enabled features are ready"), "{status:?}");
    ensure!(status.contains("spec.features.webhooks is not available in this release"), "{status:?}");
    cluster.delete_customer(name).await
}

/// A refusal of the API server is Stalled with its message and the fields of the Customer and the Plan. It blocks neither the other
/// features nor the deletion.
#[tokio::test]
async fn a_refused_object_is_stalled_with_the_field_to_correct() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let name = "truth-refused";
    cluster.delete_customer(name).await?;
    let plans = cluster.all::<Plan>();
    cluster.delete(&plans, name, 60).await?;
    let env = |prefix: &str| -> Vec<Value> {
        (0..60).map(|n| json!({"name": format!("{prefix}{n}"), "value": "x"})).collect()
    };
    let default = plans.get("default").await?;
    let image = default.spec.features.scheduler.and_then(|s| s.image).context("the default Plan has no image")?;
    let spec: PlanSpec =
        serde_json::from_value(json!({"features": {"scheduler": {"image": image, "workers": 0, "env": env("P")}}}))?;
    plans.create(&PostParams::default(), &Plan::new(name, spec)).await?;
    // Each list is valid, and together they are too long for a Scheduler.
    let features = json!({"database": {"enabled": true}, "scheduler": {"enabled": true, "env": env("C")}});
    cluster.create_customer_with(name, json!({"plan": name, "features": features})).await?;
    let stalled = cluster.condition(name, "SchedulerReady", "False", "Refused").await?;
    let status = message(&stalled, "SchedulerReady");
    let correct =
        format!("correct spec.features.scheduler of the Customer or spec.features.scheduler of the Plan {name}");
    contains_all(&status, &["Scheduler", "spec.env", "must have at most 100 items", &correct])?;
    cluster.condition(name, "Stalled", "True", "Refused").await?;
    cluster.condition(name, "DatabaseReady", "True", "Ready").await?;
    cluster.patch_spec(&cluster.customers(), name, json!({"features": {"scheduler": {"env": []}}})).await?;
    cluster.ready(name).await?;
    let spec = json!({"runPolicy": "Suspended", "features": {"scheduler": {"env": env("C")}}});
    cluster.patch_spec(&cluster.customers(), name, spec).await?;
    cluster.condition(name, "Stalled", "True", "Refused").await?;
    let scheduler = cluster.of::<ahoi_api::Scheduler>(&namespace_of(name)).get(name).await?;
    ensure!(scheduler.spec.run_policy == ahoi_api::RunPolicy::Suspended, "the refusal keeps the workers running");
    cluster.delete_customer(name).await?;
    cluster.delete(&plans, name, 60).await
}

/// Workers stop although Kubernetes refuses another change of their spec.
#[tokio::test]
async fn workers_are_suspended_although_their_spec_is_refused() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let name = "truth-stop";
    let jobs = json!([{"name": "report", "schedule": "0 3 1 1 *", "command": ["ahoi-demo-worker", "report"]}]);
    cluster.create_customer(name, json!({"scheduler": {"enabled": true, "workers": 1, "jobs": jobs}})).await?;
    cluster.ready(name).await?;
    let env = json!([{"name": "a=b", "value": "no name of a variable"}]);
    let spec = json!({"runPolicy": "Suspended", "features": {"scheduler": {"env": env}}});
    cluster.patch_spec(&cluster.customers(), name, spec).await?;
    let stalled = cluster.condition(name, "SchedulerReady", "False", "Refused").await?;
    let status = message(&stalled, "SchedulerReady");
    for word in ["truth-stop-worker", "env[0].name", "a=b", "correct spec.features.scheduler of the Customer"] {
        ensure!(status.contains(word), "{word:?} is not in {status:?}");
    }
    let deployments = cluster.of::<Deployment>(&namespace_of(name));
    let stopped = |d: Option<&Deployment>| d.and_then(|d| d.status.as_ref()?.replicas).unwrap_or(0) == 0;
    cluster.until(&deployments, "truth-stop-worker", "no worker", 60, stopped).await?;
    let suspended = |c: Option<&CronJob>| c.and_then(|c| c.spec.as_ref()?.suspend) == Some(true);
    cluster.until(&cluster.of(&namespace_of(name)), "report", "suspended", 60, suspended).await?;
    cluster.delete_customer(name).await
}

/// `kubectl describe customer` shows one event for each transition.
#[tokio::test]
async fn events_record_each_transition_of_a_customer() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let name = "truth-story";
    let features = json!({"database": {"enabled": true}, "scheduler": {"enabled": true, "workers": 0}});
    let created = cluster.create_customer(name, features).await?;
    cluster.ready(name).await?;
    cluster.change(name, json!({"features": {"scheduler": {"enabled": false}}})).await?;
    cluster.change(name, json!({"features": {"scheduler": {"enabled": true}}})).await?;
    cluster.change(name, json!({"runPolicy": "Suspended"})).await?;
    cluster.change(name, json!({"runPolicy": "Running"})).await?;
    let schedulers = cluster.of::<ahoi_api::Scheduler>(&namespace_of(name));
    let lost = schedulers.get(name).await?.metadata.uid;
    schedulers.delete(name, &kube::api::DeleteParams::default()).await?;
    let back =
        |s: Option<&ahoi_api::Scheduler>| s.is_some_and(|s| s.metadata.uid != lost && ahoi_reconcile::is_ready(s));
    cluster.until(&schedulers, name, "created again", 60, back).await?;
    let rotate = json!({"features": {"database": {"credentials": {"rotationRequest": "story"}}}});
    cluster.patch_spec(&cluster.customers(), name, rotate).await?;
    let uid = created.metadata.uid.context("no uid")?;
    let expected =
        ["Created", "FeatureDisabled", "FeatureEnabled", "Suspended", "Resumed", "Repaired", "CredentialsRotated"];
    for reason in expected {
        event(&cluster, &uid, reason).await?;
    }
    cluster.delete_customer(name).await?;
    event(&cluster, &uid, "Offboarding").await
}

/// Waits for the only event with this reason about the customer.
async fn event(cluster: &Cluster, uid: &str, reason: &str) -> Result<()> {
    let events = cluster.all::<Event>();
    let found = async {
        loop {
            let all = events.list(&ListParams::default()).await?;
            let about = |event: &&Event| event.regarding.as_ref().is_some_and(|o| o.uid.as_deref() == Some(uid));
            let found: Vec<&Event> =
                all.iter().filter(about).filter(|event| event.reason.as_deref() == Some(reason)).collect();
            if let Some(event) = found.first() {
                println!("story: {reason}: {}", event.note.as_deref().unwrap_or_default());
                ensure!(found.len() == 1 && event.series.is_none(), "{} events {reason}", found.len());
                return Ok(());
            }
            // Events are published in the background. The time-out around this loop bounds it.
            tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        }
    };
    let waited = tokio::time::timeout(std::time::Duration::from_secs(READY), found).await;
    waited.with_context(|| format!("no event {reason}"))?
}
