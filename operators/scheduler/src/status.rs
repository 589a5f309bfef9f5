//! The status of a Scheduler.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use ahoi_api::{JobStatus, Reason, RunPolicy, Scheduler, SchedulerStatus};
use ahoi_reconcile::conditions::{ConditionStatus, DesiredCondition, Verdict, set, set_verdict};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::batch::v1::CronJob;
use kube::ResourceExt;

use crate::desired::{PROGRESS_DEADLINE_SECONDS, wanted_workers};
use crate::health::{self, Workers};
use crate::migration::{MIGRATED, Migration};
use crate::pods::{self, Role};

const WORKERS_READY: &str = "WorkersReady";
const JOBS_HEALTHY: &str = "JobsHealthy";

/// How long a change of a detail (a count, a message, the time of a run) waits to be written together with the next.
pub const HOLD: Duration = Duration::from_secs(2);

/// What is written at once: a new generation, or a condition with another status or reason.
pub fn substance(status: &SchedulerStatus) -> (Option<i64>, BTreeSet<(String, String, String)>) {
    let conditions = status.conditions.iter();
    (status.observed_generation, conditions.map(|c| (c.type_.clone(), c.status.clone(), c.reason.clone())).collect())
}

/// The children after everything was applied.
#[derive(Debug)]
pub struct Observed {
    pub migration: Migration,
    pub workers: Option<Arc<Deployment>>,
    pub jobs: Vec<Arc<CronJob>>,
    /// Refusals of scheduled jobs by Kubernetes.
    pub refused: Vec<String>,
}

/// A condition other than Ready, Reconciling and Stalled.
struct Finding(&'static str, ConditionStatus, Reason, String);

/// The label selector of the workers' pods, as text.
fn worker_selector(scheduler: &Scheduler) -> String {
    let labels = pods::selector(scheduler, Role::Worker);
    labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",")
}

/// The status of a Scheduler. A failed run of a job sets JobsHealthy and leaves the Scheduler Ready: the customer is served, and the
/// next run may succeed.
pub fn status(scheduler: &Scheduler, observed: &Observed) -> SchedulerStatus {
    let generation = scheduler.metadata.generation;
    let wanted = wanted_workers(scheduler);
    let available = observed.workers.as_deref().map_or(0, health::available);
    let count = format!("{available}/{wanted}");
    let workers = match &observed.workers {
        Some(workers) => health::workers(workers),
        None if wanted == 0 => Workers::Ready,
        None => Workers::Rolling("the first ones start when the migration has succeeded".into()),
    };
    let known = scheduler.status.as_ref().and_then(|status| status.migration.clone());
    let mut status = SchedulerStatus {
        observed_generation: generation,
        workers: Some(wanted),
        ready_workers: Some(available),
        selector: Some(worker_selector(scheduler)),
        migration: match &observed.migration {
            Migration::Reconnecting(uid) => Some(uid.clone()),
            _ => known,
        },
        jobs: observed.jobs.iter().map(|job| last_run(job)).collect(),
        conditions: Vec::new(),
    };
    let findings = [workers_ready(scheduler, &workers, &count), jobs_healthy(scheduler, observed)];
    for Finding(type_, state, reason, message) in findings.into_iter().chain(migrated(scheduler, &observed.migration)) {
        let _ = set(
            &mut status.conditions,
            DesiredCondition::new(type_, state, reason, message).observed_generation(generation),
        );
    }
    set_verdict(&mut status.conditions, generation, verdict(scheduler, observed, &workers, &count));
    status
}

fn verdict(scheduler: &Scheduler, observed: &Observed, workers: &Workers, count: &str) -> Verdict {
    if let Migration::Failed(..) = &observed.migration {
        return Verdict::stalled(Reason::MigrationFailed, describe(scheduler, &observed.migration));
    }
    if let Workers::Stuck(reason, _) = workers {
        return Verdict::stalled(reason, workers_message(scheduler, workers, count));
    }
    if !observed.refused.is_empty() {
        return Verdict::stalled(Reason::JobRefused, observed.refused.join("; "));
    }
    match (&observed.migration, workers) {
        (Migration::None | Migration::Succeeded | Migration::Suspended, Workers::Ready) => {
            Verdict::ready(ready_message(scheduler, count))
        }
        (Migration::None | Migration::Succeeded | Migration::Suspended, _) => {
            Verdict::progressing(Reason::RollingOut, workers_message(scheduler, workers, count))
        }
        (migration, _) => Verdict::progressing(Reason::Migrating, describe(scheduler, migration)),
    }
}

fn ready_message(scheduler: &Scheduler, count: &str) -> String {
    let jobs = match scheduler.spec.jobs.len() {
        1 => "1 job".to_owned(),
        jobs => format!("{jobs} jobs"),
    };
    match scheduler.spec.run_policy {
        RunPolicy::Running => format!("{count} workers and {jobs}"),
        RunPolicy::Suspended => format!("suspended: workers stopped, {jobs} not scheduled"),
    }
}

fn workers_ready(scheduler: &Scheduler, workers: &Workers, count: &str) -> Finding {
    match workers {
        Workers::Ready => {
            Finding(WORKERS_READY, ConditionStatus::True, Reason::AllAvailable, format!("{count} workers"))
        }
        Workers::Rolling(_) => Finding(
            WORKERS_READY,
            ConditionStatus::False,
            Reason::RollingOut,
            workers_message(scheduler, workers, count),
        ),
        Workers::Stuck(..) => {
            Finding(WORKERS_READY, ConditionStatus::False, Reason::Stuck, workers_message(scheduler, workers, count))
        }
    }
}

/// The number of ready workers, and why not all are.
fn workers_message(scheduler: &Scheduler, workers: &Workers, count: &str) -> String {
    match workers {
        Workers::Ready => format!("{count} workers"),
        Workers::Rolling(why) => format!("{count} workers ready: {why}"),
        Workers::Stuck(reason, why) => format!(
            "{count} workers ready, no progress for {PROGRESS_DEADLINE_SECONDS} seconds ({reason}): {}. See `kubectl -n {} \
             describe pods -l app.kubernetes.io/name=worker`",
            why.trim_end_matches('.'),
            scheduler.namespace().unwrap_or_default()
        ),
    }
}

fn jobs_healthy(scheduler: &Scheduler, observed: &Observed) -> Finding {
    if !observed.refused.is_empty() {
        return Finding(JOBS_HEALTHY, ConditionStatus::False, Reason::JobRefused, observed.refused.join("; "));
    }
    let failed = observed.jobs.iter().filter(|job| health::last_run_failed(job));
    let failed: Vec<String> = failed.map(|job| job.name_any()).collect();
    if failed.is_empty() {
        return Finding(
            JOBS_HEALTHY,
            ConditionStatus::True,
            Reason::AllHealthy,
            "no job failed in its last run".into(),
        );
    }
    let message = format!(
        "the last run failed of: {}. See `kubectl -n {} get jobs,pods -l app.kubernetes.io/name=job`",
        failed.join(", "),
        scheduler.namespace().unwrap_or_default()
    );
    Finding(JOBS_HEALTHY, ConditionStatus::False, Reason::JobFailed, message)
}

fn migrated(scheduler: &Scheduler, migration: &Migration) -> Option<Finding> {
    let (state, reason) = match migration {
        Migration::None => return None,
        Migration::Succeeded => (ConditionStatus::True, Reason::Succeeded),
        Migration::Failed(..) => (ConditionStatus::False, Reason::MigrationFailed),
        Migration::Suspended => (ConditionStatus::False, Reason::Suspended),
        Migration::Reconnecting(_) => (ConditionStatus::False, Reason::Reconnecting),
        Migration::Due(_) | Migration::Behind(_) | Migration::Running(_) => (ConditionStatus::False, Reason::Migrating),
    };
    Some(Finding(MIGRATED, state, reason, describe(scheduler, migration)))
}

fn describe(scheduler: &Scheduler, migration: &Migration) -> String {
    let namespace = scheduler.namespace().unwrap_or_default();
    match migration {
        Migration::None | Migration::Succeeded => "the migration has succeeded".into(),
        Migration::Reconnecting(_) => {
            "the migration has succeeded; workers of the new version start when the connection pool has replaced its server \
             connections: see the condition ConnectionPoolReady of the Customer"
                .into()
        }
        Migration::Suspended => "the migration starts when the customer is resumed".into(),
        Migration::Due(job) => format!("starting migration {}", job.name_any()),
        Migration::Running(job) => {
            format!("running migration {job}; the new version starts when it has succeeded")
        }
        Migration::Behind(job) => {
            format!("waiting for migration {job} of an earlier version to end")
        }
        Migration::Failed(job, why) => format!(
            "migration {job} failed: {}. Workers keep their version. See `kubectl -n {namespace} logs job/{job}`; to retry, \
             deploy another image or delete the Job",
            why.trim_end_matches('.')
        ),
    }
}

fn last_run(job: &CronJob) -> JobStatus {
    let status = job.status.clone().unwrap_or_default();
    JobStatus {
        name: job.name_any(),
        last_schedule_time: status.last_schedule_time,
        last_successful_time: status.last_successful_time,
    }
}
