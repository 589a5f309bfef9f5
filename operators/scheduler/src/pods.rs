//! The pods that run a customer's code: workers, jobs and migrations. All of them conform to the restricted Pod Security Standard of
//! Kubernetes (<https://kubernetes.io/docs/concepts/security/pod-security-standards/>).

use std::collections::BTreeMap;

use ahoi_api::{CUSTOMER_LABEL, Scheduler};
use k8s_openapi::api::core::v1::{
    Capabilities, Container, EmptyDirVolumeSource, EnvVar, PodSecurityContext, PodSpec, PodTemplateSpec,
    SeccompProfile, SecretVolumeSource, SecurityContext, Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt;

/// The user of the pods, "nonroot" in distroless images.
const USER: i64 = 65532;
/// Folder of the binding Secrets, as in the Service Binding specification.
const BINDINGS: &str = "/bindings";
const BINDING_ROOT: &str = "SERVICE_BINDING_ROOT";

/// The purpose of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Runs continuously.
    Worker,
    /// Runs on a schedule.
    Job,
    /// Runs once for each version.
    Migration,
}

impl Role {
    /// Its name in labels, and the name of its container.
    pub fn name(self) -> &'static str {
        match self {
            Role::Worker => "worker",
            Role::Job => "job",
            Role::Migration => "migration",
        }
    }
}

/// The labels of the children of `scheduler`, and of their pods.
pub fn labels(scheduler: &Scheduler, role: Role) -> BTreeMap<String, String> {
    let customer = scheduler.labels().get(CUSTOMER_LABEL).cloned();
    let mut labels = selector(scheduler, role);
    labels.extend([
        ("app.kubernetes.io/managed-by".into(), "ahoi-scheduler".into()),
        // A Scheduler that was created manually may lack the label, by which its children are watched.
        (CUSTOMER_LABEL.into(), customer.unwrap_or_else(|| scheduler.name_any())),
    ]);
    labels
}

/// The labels that select the pods of `scheduler`. The selector of a Deployment is immutable.
pub fn selector(scheduler: &Scheduler, role: Role) -> BTreeMap<String, String> {
    [("app.kubernetes.io/name".into(), role.name().into()), ("app.kubernetes.io/instance".into(), scheduler.name_any())]
        .into()
}

/// A pod that runs `command` in `image`, with the customer's environment and the connection details of its database.
pub fn template(scheduler: &Scheduler, role: Role, image: &str, command: &[String]) -> PodTemplateSpec {
    let spec = &scheduler.spec;
    let mut volumes =
        vec![Volume { name: "tmp".into(), empty_dir: Some(EmptyDirVolumeSource::default()), ..Volume::default() }];
    let mut mounts = vec![VolumeMount { name: "tmp".into(), mount_path: "/tmp".into(), ..VolumeMount::default() }];
    let mut env = spec.env.clone();
    let direct = spec.pool.as_ref().filter(|_| role == Role::Migration).map(|pool| &pool.direct_binding_ref.name);
    if let Some(secret) = direct.or(spec.binding.as_ref().map(|binding| &binding.name)) {
        env.retain(|var| var.name != BINDING_ROOT);
        env.push(EnvVar { name: BINDING_ROOT.into(), value: Some(BINDINGS.into()), value_from: None });
        volumes.push(Volume {
            name: "database".into(),
            secret: Some(SecretVolumeSource {
                secret_name: Some(secret.clone()),
                // Readable by the group of the pod.
                default_mode: Some(0o440),
                ..SecretVolumeSource::default()
            }),
            ..Volume::default()
        });
        mounts.push(VolumeMount {
            name: "database".into(),
            mount_path: format!("{BINDINGS}/database"),
            read_only: Some(true),
            ..VolumeMount::default()
        });
    }
    let container = Container {
        name: role.name().into(),
        image: Some(image.to_owned()),
        command: (!command.is_empty()).then(|| command.to_vec()),
        env: (!env.is_empty()).then_some(env),
        resources: spec.resources.clone(),
        volume_mounts: Some(mounts),
        // The last lines of the log become the message of a failed Job.
        termination_message_policy: Some("FallbackToLogsOnError".into()),
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            capabilities: Some(Capabilities { drop: Some(vec!["ALL".into()]), add: None }),
            read_only_root_filesystem: Some(true),
            ..SecurityContext::default()
        }),
        ..Container::default()
    };
    PodTemplateSpec {
        metadata: Some(ObjectMeta { labels: Some(labels(scheduler, role)), ..ObjectMeta::default() }),
        spec: Some(PodSpec {
            containers: vec![container],
            volumes: Some(volumes),
            automount_service_account_token: Some(false),
            enable_service_links: Some(false),
            termination_grace_period_seconds: Some(30),
            security_context: Some(PodSecurityContext {
                run_as_non_root: Some(true),
                run_as_user: Some(USER),
                run_as_group: Some(USER),
                fs_group: Some(USER),
                seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".into(), localhost_profile: None }),
                ..PodSecurityContext::default()
            }),
            ..PodSpec::default()
        }),
    }
}
