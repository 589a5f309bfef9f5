//! How workers and jobs are, read from what Kubernetes' own controllers say about them.

use k8s_openapi::api::apps::v1::{Deployment, DeploymentCondition};
use k8s_openapi::api::batch::v1::CronJob;

/// How the workers are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Workers {
    /// As many as wanted run, all of the version wanted.
    Ready,
    /// They are being started, replaced or stopped.
    Rolling(String),
    /// Nothing has moved for too long, for this reason of Kubernetes'.
    Stuck(String, String),
}

/// How many workers are there to work, at most as many as wanted: during a rollout there may be more for a moment.
pub fn available(deployment: &Deployment) -> i32 {
    let available = deployment.status.as_ref().and_then(|status| status.available_replicas).unwrap_or(0);
    available.min(wanted(deployment))
}

fn wanted(deployment: &Deployment) -> i32 {
    deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
}

/// How the workers of a Deployment are.
pub fn workers(deployment: &Deployment) -> Workers {
    let wanted = wanted(deployment);
    let status = deployment.status.clone().unwrap_or_default();
    // As it was made, it never wanted any: nothing runs, and nothing is going to.
    if wanted == 0 && deployment.metadata.generation == Some(1) && status.replicas.unwrap_or(0) == 0 {
        return Workers::Ready;
    }
    if status.observed_generation < deployment.metadata.generation {
        return Workers::Rolling("the change is on its way".into());
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
        Some(refused) => format!("Kubernetes does not make more of them: {refused}"),
        None if updated < wanted => format!("{updated} of {wanted} are of the new version"),
        None if all > updated => "those of the old version are being stopped".into(),
        None if all > wanted => "those too many are being stopped".into(),
        None => "the others are starting".into(),
    })
}

fn find<'a>(conditions: &'a [DeploymentCondition], type_: &str, status: &str) -> Option<&'a DeploymentCondition> {
    conditions.iter().find(|condition| condition.type_ == type_ && condition.status == status)
}

/// Why a pod was refused, without the pod's name: that is another one with each attempt, and would make each a write.
fn refusal(failure: &DeploymentCondition) -> String {
    let message = failure.message.as_deref().unwrap_or_default();
    message.split_once(" is forbidden: ").map_or(message, |(_, why)| why).to_owned()
}

/// Whether the last run of a job ended without success. While one runs, nobody knows.
pub fn last_run_failed(job: &CronJob) -> bool {
    let Some(status) = &job.status else { return false };
    let runs = status.active.as_ref().is_some_and(|active| !active.is_empty());
    !runs && status.last_schedule_time.is_some() && status.last_successful_time < status.last_schedule_time
}
