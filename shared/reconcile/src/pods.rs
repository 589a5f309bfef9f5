//! Why a pod does not run, from its status. Pure.
//!
//! A failing pod changes its status with each attempt: a pull fails and is delayed, a container starts and exits. The result here is
//! the same for all attempts, so that a condition with it is written once.

use k8s_openapi::api::core::v1::{ContainerState, ContainerStateTerminated, ContainerStatus, Pod};
use kube::ResourceExt;

/// The maximum length of a message, in characters.
const MAX_MESSAGE_CHARS: usize = 400;
/// From this number of restarts on, a container that is not ready counts as crash-looping.
const RESTARTS: i32 = 2;

/// Why a pod does not run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// No node can run it.
    Unschedulable,
    /// The image of a container cannot be pulled.
    Image,
    /// A container cannot be created, because of an object that it refers to.
    Config,
    /// A container exits repeatedly, or cannot be started.
    Crash,
}

impl Fault {
    /// The reason in conditions and events, as Kubernetes names it.
    pub fn reason(self) -> &'static str {
        match self {
            Fault::Unschedulable => "Unschedulable",
            Fault::Image => "ImagePullBackOff",
            Fault::Config => "CreateContainerConfigError",
            Fault::Crash => "CrashLoopBackOff",
        }
    }
}

/// Why a pod does not run, with a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// The cause.
    pub fault: Fault,
    /// The pod's name.
    pub pod: String,
    /// The message of Kubernetes or the container runtime.
    pub message: String,
}

/// Why the pod does not run; `None` while it starts, runs or ends.
pub fn trouble(pod: &Pod) -> Option<Trouble> {
    let status = pod.status.as_ref().filter(|_| pod.metadata.deletion_timestamp.is_none())?;
    let conditions = status.conditions.iter().flatten();
    let mut unscheduled = conditions.filter(|condition| {
        condition.type_ == "PodScheduled"
            && condition.status == "False"
            && condition.reason.as_deref() == Some("Unschedulable")
    });
    let found = match unscheduled.next() {
        Some(condition) => Some((Fault::Unschedulable, condition.message.clone().unwrap_or_default())),
        None => {
            let containers = status.init_container_statuses.iter().chain(&status.container_statuses).flatten();
            containers.filter(|container| !container.ready).find_map(of_container)
        }
    };
    let (fault, message) = found?;
    let message = message.trim_end_matches('.').chars().take(MAX_MESSAGE_CHARS).collect();
    Some(Trouble { fault, pod: pod.name_any(), message })
}

fn of_container(container: &ContainerStatus) -> Option<(Fault, String)> {
    let waiting = container.state.as_ref().and_then(|state| state.waiting.as_ref());
    let reason = waiting.and_then(|waiting| waiting.reason.as_deref()).unwrap_or_default();
    let words = || waiting.and_then(|waiting| waiting.message.clone()).unwrap_or_default();
    match reason {
        "ErrImagePull" | "ImagePullBackOff" | "InvalidImageName" | "ErrImageNeverPull" => {
            Some((Fault::Image, format!("image {}: {}", container.image, pull_error(&words()))))
        }
        "CreateContainerConfigError" => Some((Fault::Config, words())),
        "CrashLoopBackOff" | "RunContainerError" | "CreateContainerError" => Some((Fault::Crash, crash(container))),
        // Between two attempts it runs, or has just exited.
        _ if container.restart_count >= RESTARTS && terminated(container).is_some() => {
            Some((Fault::Crash, crash(container)))
        }
        _ => None,
    }
}

/// The error of the pull, which Kubernetes quotes while it waits for the next attempt.
fn pull_error(words: &str) -> &str {
    let error = words.rsplit_once("ErrImagePull: ").map_or(words, |(_, error)| error);
    if error.is_empty() || error.starts_with("Back-off pulling image") { "it cannot be pulled" } else { error }
}

/// How the container exited last. Without the end of its log, which may contain anything and differs each time.
fn crash(container: &ContainerStatus) -> String {
    let name = &container.name;
    let Some(ended) = terminated(container) else { return format!("container {name} cannot be started") };
    match ended.reason.as_deref().unwrap_or_default() {
        // It never ran, and these are the runtime's words.
        "StartError" | "ContainerCannotRun" => {
            format!("container {name} cannot be started: {}", ended.message.as_deref().unwrap_or_default())
        }
        "OOMKilled" => format!("container {name} needs more memory than its limit (OOMKilled)"),
        _ => format!("container {name} ends again and again, with exit code {}", ended.exit_code),
    }
}

fn terminated(container: &ContainerStatus) -> Option<&ContainerStateTerminated> {
    let of = |state: &'_ Option<ContainerState>| state.as_ref().is_some_and(|state| state.terminated.is_some());
    let last = if of(&container.state) { &container.state } else { &container.last_state };
    last.as_ref()?.terminated.as_ref()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn of(status: Value) -> Option<(&'static str, String)> {
        let pod = json!({"metadata": {"name": "global-1"}, "status": status});
        let found = trouble(&serde_json::from_value(pod).unwrap())?;
        assert_eq!(found.pod, "global-1");
        Some((found.fault.reason(), found.message))
    }

    fn container(state: Value, last: Value, restarts: i32) -> Value {
        let container = json!({"name": "pgbouncer", "image": "localhost/nope:1", "imageID": "", "ready": false,
            "restartCount": restarts, "state": state, "lastState": last});
        json!({"containerStatuses": [container]})
    }

    fn waiting(reason: &str, message: &str) -> Value {
        json!({"waiting": {"reason": reason, "message": message}})
    }

    #[test]
    fn each_attempt_to_pull_an_image_has_the_same_result() {
        let error = "failed to resolve reference: not found";
        let first = of(container(waiting("ErrImagePull", error), json!({}), 0));
        let message = format!("Back-off pulling image \"localhost/nope:1\": ErrImagePull: {error}");
        assert_eq!(of(container(waiting("ImagePullBackOff", &message), json!({}), 0)), first);
        let (reason, message) = first.unwrap();
        assert_eq!(
            (reason, message.as_str()),
            ("ImagePullBackOff", "image localhost/nope:1: failed to resolve reference: not found")
        );
        let (_, bare) =
            of(container(waiting("ImagePullBackOff", "Back-off pulling image \"x\""), json!({}), 0)).unwrap();
        assert_eq!(bare, "image localhost/nope:1: it cannot be pulled");
    }

    #[test]
    fn a_crashing_container_has_the_same_result_while_it_waits_runs_and_exits() {
        let ended = |at: &str| json!({"terminated": {"exitCode": 1, "reason": "Error", "message": "password=x", "finishedAt": at}});
        let back_off = waiting("CrashLoopBackOff", "back-off 10s restarting failed container");
        let first = of(container(back_off, ended("2026-01-01T00:00:00Z"), 1));
        let running = json!({"running": {"startedAt": "2026-01-01T00:00:20Z"}});
        assert_eq!(of(container(running, ended("2026-01-01T00:00:10Z"), 2)), first);
        assert_eq!(of(container(ended("2026-01-01T00:00:30Z"), json!({}), 2)), first);
        let message = "container pgbouncer ends again and again, with exit code 1";
        assert_eq!(first, Some(("CrashLoopBackOff", message.to_owned())));
        let start = json!({"terminated": {"exitCode": 128, "reason": "StartError", "message": "exec: not found"}});
        let (_, message) = of(container(waiting("RunContainerError", "id 17"), start, 0)).unwrap();
        assert_eq!(message, "container pgbouncer cannot be started: exec: not found");
    }

    #[test]
    fn a_pod_without_a_node_or_with_a_reference_to_nothing() {
        let condition = json!({"type": "PodScheduled", "status": "False", "reason": "Unschedulable",
            "message": "0/1 nodes are available: 1 Insufficient cpu."});
        let message = "0/1 nodes are available: 1 Insufficient cpu".to_owned();
        assert_eq!(of(json!({"conditions": [condition]})), Some(("Unschedulable", message)));
        let missing = waiting("CreateContainerConfigError", "secret \"x\" not found");
        let message = "secret \"x\" not found".to_owned();
        assert_eq!(of(container(missing, json!({}), 0)), Some(("CreateContainerConfigError", message)));
    }

    #[test]
    fn a_pod_that_starts_has_no_trouble() {
        assert_eq!(of(json!({})), None);
        assert_eq!(of(container(waiting("ContainerCreating", ""), json!({}), 0)), None);
        let ended = json!({"terminated": {"exitCode": 0, "reason": "Completed"}});
        assert_eq!(of(container(json!({"running": {}}), ended, 1)), None, "it was restarted once");
    }
}
