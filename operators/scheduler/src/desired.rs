//! The desired children of a Scheduler. Pure: from the Scheduler and what runs now to objects.

use std::collections::BTreeMap;

use ahoi_api::{ConcurrencyPolicy, JobTemplate, Readiness, RunPolicy, Scheduler};
use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, DeploymentStrategy, RollingUpdateDeployment};
use k8s_openapi::api::batch::v1::{CronJob, CronJobSpec, JobSpec, JobTemplateSpec};
use k8s_openapi::api::core::v1::{HTTPGetAction, PodTemplateSpec, Probe, TopologySpreadConstraint};
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt;

use crate::pods::{self, Role};

/// Changes with the content of the binding Secret, which triggers a rollout of the workers.
const BINDING_VERSION: &str = "internal.example.com/binding-version";
/// Set by `kubectl rollout restart`.
const RESTARTED_AT: &str = "kubectl.kubernetes.io/restartedAt";
/// A rollout without progress for this long is Stalled. Longer than it takes to pull a large image.
pub const PROGRESS_DEADLINE_SECONDS: i32 = 300;

/// The number of workers that should run.
pub fn wanted_workers(scheduler: &Scheduler) -> i32 {
    match scheduler.spec.run_policy {
        RunPolicy::Running => scheduler.spec.workers,
        RunPolicy::Suspended => 0,
    }
}

/// The workers. While a migration holds them they keep the `live` version, and only their number follows the spec. `None`: nothing to
/// change, or none exist and none are created before the migration has succeeded.
pub fn workers(scheduler: &Scheduler, live: Option<&Deployment>, hold: bool) -> Option<Deployment> {
    let running = live.and_then(|live| live.spec.as_ref());
    let current = running.map(|spec| &spec.template);
    let template = match current {
        Some(current) if hold => current.clone(),
        None if hold => return None,
        _ => worker_template(scheduler, current),
    };
    let quarter = || Some(IntOrString::String("25%".into()));
    let spec = DeploymentSpec {
        replicas: Some(wanted_workers(scheduler)),
        selector: worker_selector(scheduler),
        strategy: Some(DeploymentStrategy {
            type_: Some("RollingUpdate".into()),
            rolling_update: Some(RollingUpdateDeployment { max_unavailable: quarter(), max_surge: quarter() }),
        }),
        progress_deadline_seconds: Some(PROGRESS_DEADLINE_SECONDS),
        // One to roll back to. Each revision is an object.
        revision_history_limit: Some(1),
        template,
        ..DeploymentSpec::default()
    };
    let changed = !hold || running != Some(&spec);
    changed.then(|| Deployment {
        metadata: meta(scheduler, workers_name(scheduler), Role::Worker),
        spec: Some(spec),
        ..Deployment::default()
    })
}

fn worker_selector(scheduler: &Scheduler) -> LabelSelector {
    LabelSelector { match_labels: Some(pods::selector(scheduler, Role::Worker)), ..LabelSelector::default() }
}

/// The name of the Deployment and of its disruption budget.
pub fn workers_name(scheduler: &Scheduler) -> String {
    format!("{}-worker", scheduler.name_any())
}

fn worker_template(scheduler: &Scheduler, live: Option<&PodTemplateSpec>) -> PodTemplateSpec {
    let spec = &scheduler.spec;
    let mut template = pods::template(scheduler, Role::Worker, &spec.image, &spec.command);
    let mut annotations = BTreeMap::new();
    if let Some(binding) = &spec.binding {
        annotations.insert(BINDING_VERSION.to_owned(), binding.version.clone());
    }
    // Without it, the next change of the Deployment would restart the workers once more.
    let restarted = live.and_then(|live| live.metadata.as_ref()?.annotations.as_ref()?.get(RESTARTED_AT));
    annotations.extend(restarted.map(|at| (RESTARTED_AT.to_owned(), at.clone())));
    template.metadata.get_or_insert_default().annotations = Some(annotations).filter(|some| !some.is_empty());
    let pod = template.spec.get_or_insert_default();
    if let Some(worker) = pod.containers.first_mut() {
        worker.readiness_probe = spec.readiness.as_ref().map(probe);
    }
    pod.topology_spread_constraints = Some(vec![TopologySpreadConstraint {
        max_skew: 1,
        topology_key: "kubernetes.io/hostname".into(),
        when_unsatisfiable: "ScheduleAnyway".into(),
        label_selector: Some(worker_selector(scheduler)),
        ..TopologySpreadConstraint::default()
    }]);
    template
}

/// Frequent, because a customer is not Ready before its workers are.
fn probe(readiness: &Readiness) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some(readiness.path.clone().unwrap_or_else(|| "/readyz".into())),
            port: IntOrString::Int(readiness.port),
            ..HTTPGetAction::default()
        }),
        period_seconds: Some(1),
        timeout_seconds: Some(1),
        ..Probe::default()
    }
}

/// Keeps most of the workers running while nodes are drained. With one worker it would block every drain.
pub fn budget(scheduler: &Scheduler) -> Option<PodDisruptionBudget> {
    (wanted_workers(scheduler) > 1).then(|| PodDisruptionBudget {
        metadata: meta(scheduler, workers_name(scheduler), Role::Worker),
        spec: Some(PodDisruptionBudgetSpec {
            max_unavailable: Some(IntOrString::String("25%".into())),
            selector: Some(worker_selector(scheduler)),
            // Workers that are not ready must not block a drain.
            unhealthy_pod_eviction_policy: Some("AlwaysAllow".into()),
            ..PodDisruptionBudgetSpec::default()
        }),
        ..PodDisruptionBudget::default()
    })
}

/// One scheduled job. A job with the image of the workers is held like them, and `None` as they are.
pub fn cron_job(scheduler: &Scheduler, job: &JobTemplate, live: Option<&CronJob>, hold: bool) -> Option<CronJob> {
    let hold = hold && job.image.is_none();
    let running = live.and_then(|live| live.spec.as_ref());
    let job_template = match running {
        Some(running) if hold => running.job_template.clone(),
        None if hold => return None,
        _ => run(scheduler, job),
    };
    let concurrency_policy = match job.concurrency_policy {
        ConcurrencyPolicy::Allow => "Allow",
        ConcurrencyPolicy::Forbid => "Forbid",
        ConcurrencyPolicy::Replace => "Replace",
    };
    let spec = CronJobSpec {
        schedule: job.schedule.clone(),
        time_zone: job.time_zone.clone(),
        concurrency_policy: Some(concurrency_policy.into()),
        starting_deadline_seconds: job.starting_deadline_seconds,
        suspend: Some(scheduler.spec.run_policy == RunPolicy::Suspended),
        successful_jobs_history_limit: Some(job.successful_history.unwrap_or(1)),
        failed_jobs_history_limit: Some(job.failed_history.unwrap_or(1)),
        job_template,
    };
    let changed = !hold || running != Some(&spec);
    changed.then(|| CronJob {
        metadata: meta(scheduler, job.name.clone(), Role::Job),
        spec: Some(spec),
        ..CronJob::default()
    })
}

/// A scheduled job whose new version is refused: unchanged except for its suspension. `None`: nothing to change.
pub fn suspended_only(scheduler: &Scheduler, live: &CronJob) -> Option<CronJob> {
    let suspend = Some(scheduler.spec.run_policy == RunPolicy::Suspended);
    let spec = live.spec.clone().filter(|spec| spec.suspend.or(Some(false)) != suspend)?;
    Some(CronJob {
        metadata: meta(scheduler, live.name_any(), Role::Job),
        spec: Some(CronJobSpec { suspend, ..spec }),
        ..CronJob::default()
    })
}

fn run(scheduler: &Scheduler, job: &JobTemplate) -> JobTemplateSpec {
    let image = job.image.as_deref().unwrap_or(&scheduler.spec.image);
    JobTemplateSpec {
        metadata: Some(ObjectMeta { labels: Some(pods::labels(scheduler, Role::Job)), ..ObjectMeta::default() }),
        spec: Some(JobSpec {
            backoff_limit: Some(job.retries.unwrap_or(2)),
            active_deadline_seconds: job.active_deadline_seconds,
            template: once(pods::template(scheduler, Role::Job, image, &job.command)),
            ..JobSpec::default()
        }),
    }
}

/// A pod that is not restarted: the Job creates a new one, and the log of the failed one remains.
pub fn once(mut template: PodTemplateSpec) -> PodTemplateSpec {
    template.spec.get_or_insert_default().restart_policy = Some("Never".into());
    template
}

/// The metadata of a child.
pub fn meta(scheduler: &Scheduler, name: String, role: Role) -> ObjectMeta {
    ObjectMeta {
        name: Some(name),
        namespace: scheduler.namespace(),
        labels: Some(pods::labels(scheduler, role)),
        ..ObjectMeta::default()
    }
}
