//! The job that must succeed before anything of a new version runs. Pure: from the Scheduler and its migration Jobs to what to do.

use std::sync::Arc;

use ahoi_api::{Migration as Spec, RunPolicy, Scheduler};
use ahoi_reconcile::conditions;
use k8s_openapi::api::batch::v1::{Job, JobSpec};
use kube::ResourceExt;
use sha2::{Digest, Sha256};

use crate::desired::{meta, once};
use crate::pods::{self, Role};

/// Type of the condition of the migration to the version in the spec.
pub const MIGRATED: &str = "Migrated";
/// Maximum duration of a migration in seconds, unless the spec sets it.
const DEADLINE_SECONDS: i64 = 600;
/// Number of retries of a migration, unless the spec sets it.
const RETRIES: i32 = 3;

/// The state of the migration to the version in the spec.
#[derive(Clone, Debug, PartialEq)]
pub enum Migration {
    /// The spec has none.
    None,
    /// This Job has to be created.
    Due(Box<Job>),
    /// It starts when the customer is resumed.
    Suspended,
    /// This Job of another version has not ended, or still exists. Migrations never run concurrently.
    Behind(String),
    /// This Job runs.
    Running(String),
    /// The Job of this uid has succeeded, and the connection pool has not replaced its older server connections yet.
    Reconnecting(String),
    /// The Job has succeeded.
    Succeeded,
    /// This Job has failed after all retries, for this reason.
    Failed(String, String),
}

impl Migration {
    /// Whether everything keeps the version that it runs.
    pub fn holds(&self) -> bool {
        !matches!(self, Migration::None | Migration::Succeeded)
    }
}

/// The state of the migration, from the existing migration Jobs.
pub fn migration(scheduler: &Scheduler, jobs: &[Arc<Job>]) -> Migration {
    let Some(spec) = &scheduler.spec.migration else { return Migration::None };
    let name = name(scheduler, spec);
    if let Some(job) = jobs.iter().find(|job| job.name_any() == name) {
        if job.metadata.deletion_timestamp.is_some() {
            return Migration::Running(name);
        }
        return match end(job) {
            Some(Ok(())) => after(scheduler, job),
            Some(Err(why)) => Migration::Failed(name, why),
            None => Migration::Running(name),
        };
    }
    if let Some(other) = jobs.iter().find(|job| job.metadata.deletion_timestamp.is_some() || end(job).is_none()) {
        return Migration::Behind(other.name_any());
    }
    if scheduler.spec.run_policy == RunPolicy::Suspended {
        return Migration::Suspended;
    }
    Migration::Due(Box::new(desired(scheduler, spec, name)))
}

/// The state after this Job has succeeded. A migration that once was Succeeded stays so.
fn after(scheduler: &Scheduler, job: &Job) -> Migration {
    let uid = job.uid().unwrap_or_default();
    let status = scheduler.status.as_ref();
    let requested = status.and_then(|status| status.migration.as_ref());
    let migrated = status.and_then(|status| conditions::find(&status.conditions, MIGRATED));
    let is_over = migrated.is_some_and(|migrated| migrated.status == "True")
        && requested.is_none_or(|requested| *requested == uid);
    match &scheduler.spec.pool {
        Some(pool) if !is_over && pool.reconnected_after.as_ref() != Some(&uid) => Migration::Reconnecting(uid),
        _ => Migration::Succeeded,
    }
}

/// Whether a migration Job is kept: that of the version in the spec, and any with a running pod. Another one, perhaps with a mistyped
/// image, is deleted, and exists until its pods do not: one may have started meanwhile.
pub fn is_kept(scheduler: &Scheduler, job: &Job) -> bool {
    let current = scheduler.spec.migration.as_ref().is_some_and(|spec| name(scheduler, spec) == job.name_any());
    current || has_running_pod(job)
}

/// The template of a Job is immutable, so each version has a Job of its own name. Image, command and the name of the binding Secret
/// make a version; the number of workers or a new password do not.
fn name(scheduler: &Scheduler, spec: &Spec) -> String {
    let mut hash = Sha256::new();
    let binding = scheduler.spec.binding.as_ref().map(|binding| binding.name.as_str()).unwrap_or_default();
    for part in [&scheduler.name_any(), &scheduler.spec.image, binding]
        .into_iter()
        .chain(spec.command.iter().map(String::as_str))
    {
        hash.update(part.len().to_be_bytes());
        hash.update(part);
    }
    let hash: String = hash.finalize().iter().take(5).map(|byte| format!("{byte:02x}")).collect();
    // 63 characters in all, since pods carry the name of their Job in a label; names are ASCII.
    let scheduler: String = scheduler.name_any().chars().take(42).collect();
    format!("{}-migration-{hash}", scheduler.trim_end_matches(['-', '.']))
}

fn desired(scheduler: &Scheduler, spec: &Spec, name: String) -> Job {
    Job {
        metadata: meta(scheduler, name, Role::Migration),
        spec: Some(JobSpec {
            backoff_limit: Some(spec.retries.unwrap_or(RETRIES)),
            active_deadline_seconds: Some(spec.active_deadline_seconds.unwrap_or(DEADLINE_SECONDS)),
            template: once(pods::template(scheduler, Role::Migration, &scheduler.spec.image, &spec.command)),
            ..JobSpec::default()
        }),
        ..Job::default()
    }
}

/// The result of a Job that has ended.
fn end(job: &Job) -> Option<Result<(), String>> {
    let conditions = job.status.as_ref()?.conditions.as_deref()?;
    conditions.iter().filter(|condition| condition.status == "True").find_map(|condition| {
        match condition.type_.as_str() {
            "Complete" => Some(Ok(())),
            "Failed" => Some(Err(condition.message.clone().unwrap_or_default())),
            _ => None,
        }
    })
}

/// Whether a pod of the Job is running.
fn has_running_pod(job: &Job) -> bool {
    end(job).is_none() && job.status.as_ref().and_then(|status| status.ready).unwrap_or(0) > 0
}
