//! The health of workers and jobs, as Kubernetes reports it.

use k8s_openapi::api::apps::v1::{Deployment, DeploymentCondition};
use k8s_openapi::api::batch::v1::CronJob;

/// The health of the workers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Workers {
    /// The desired number runs, all of the desired version.
    Ready,
    /// Workers are being started, replaced or stopped.
    Rolling(String),
    /// The rollout makes no progress: reason and message of Kubernetes.
    Stuck(String, String),
}

/// The number of available workers, at most the desired number: a rollout may have more for a moment.
pub fn available(deployment: &Deployment) -> i32 {
    let available = deployment.status.as_ref().and_then(|status| status.available_replicas).unwrap_or(0);
    available.min(wanted(deployment))
}

fn wanted(deployment: &Deployment) -> i32 {
    deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
}

/// The health of the workers of a Deployment.
pub fn workers(deployment: &Deployment) -> Workers {
    let wanted = wanted(deployment);
    let status = deployment.status.clone().unwrap_or_default();
    // Created without workers, and unchanged since.
    if wanted == 0 && deployment.metadata.generation == Some(1) && status.replicas.unwrap_or(0) == 0 {
        return Workers::Ready;
    }
    if status.observed_generation < deployment.metadata.generation {
        return Workers::Rolling("waiting for Kubernetes to process the change".into());
    }
    let conditions = status.conditions.as_deref().unwrap_or_default();
    let refused = find(conditions, "ReplicaFailure", "True").map(refusal);
    if let Some(stuck) = find(conditions, "Progressing", "False") {
        let reason = stuck.reason.clone().unwrap_or_else(|| "NotProgressing".into());
        let message = refused.or_else(|| stuck.message.clone()).unwrap_or_default();
        return Workers::Stuck(reason, message);
    }
    let [all, updated, available] =
        [status.replicas, status.updated_replicas, status.available_replicas].map(|count| count.unwrap_or(0));
    if updated == wanted && available == wanted && all == wanted {
        return Workers::Ready;
    }
    Workers::Rolling(match refused {
        Some(refused) => format!("Kubernetes refuses to create pods: {refused}"),
        None if updated < wanted => format!("{updated} of {wanted} updated to the new version"),
        None if all > updated => "replacing workers of the old version".into(),
        None if all > wanted => "stopping surplus workers".into(),
        None => "waiting for the others to start".into(),
    })
}

fn find<'a>(conditions: &'a [DeploymentCondition], type_: &str, status: &str) -> Option<&'a DeploymentCondition> {
    conditions.iter().find(|condition| condition.type_ == type_ && condition.status == status)
}

/// Why a pod was refused, without its name, which differs in each attempt and would cause a status write.
fn refusal(failure: &DeploymentCondition) -> String {
    let message = failure.message.as_deref().unwrap_or_default();
    message.split_once(" is forbidden: ").map_or(message, |(_, why)| why).to_owned()
}

/// Whether the last run of a job ended without success. Unknown while one runs.
pub fn last_run_failed(job: &CronJob) -> bool {
    let Some(status) = &job.status else { return false };
    let runs = status.active.as_ref().is_some_and(|active| !active.is_empty());
    !runs && status.last_schedule_time.is_some() && status.last_successful_time < status.last_schedule_time
}
