//! The objects that a fleet consists of; pure.

use std::collections::BTreeMap;

use ahoi_api::{PgBouncer, fleet_access_label};
use ahoi_pgbouncer::{PORT, config, fleet};
use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetSpec};
use k8s_openapi::api::core::v1::{
    Capabilities, Container, ContainerPort, EmptyDirVolumeSource, EnvVar, EnvVarSource, HTTPGetAction,
    ObjectFieldSelector, PodSecurityContext, PodSpec, PodTemplateSpec, Probe, ResourceFieldSelector,
    ResourceRequirements, SeccompProfile, SecurityContext, Service, ServicePort, ServiceSpec, TopologySpreadConstraint,
    Volume, VolumeMount,
};
use k8s_openapi::api::networking::v1::{
    NetworkPolicy, NetworkPolicyIngressRule, NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec,
};
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt;

use crate::shared::{FLEET_LABEL, INSTANCE_LABEL};

/// Where the agent serves probes and metrics.
const AGENT_PORT: i32 = 8080;
/// Seconds until no node sends new clients to a pod that is being deleted.
const ANNOUNCE_SECONDS: i64 = 5;
/// Seconds after that for clients to finish.
const DRAIN_SECONDS: i64 = 60;

/// Label on namespaces whose pods may read metrics.
const MONITORING_LABEL: &str = "internal.example.com/monitoring";

/// Annotation on the pods with the parameters that pgbouncer reads only when it starts: a new value restarts the pods.
const COLD_PARAMETERS: &str = "internal.example.com/cold-parameters";

/// The objects of a fleet.
pub struct Desired {
    pub network_policy: NetworkPolicy,
    pub shards: Vec<Shard>,
}

/// The objects of one shard.
pub struct Shard {
    pub stateful_set: StatefulSet,
    /// The address of the shard.
    pub service: Service,
    /// The addresses of its processes.
    pub peers: Service,
    pub budget: PodDisruptionBudget,
}

/// The objects of a fleet with so many shards. `top_customers` is an option of the agents.
pub fn desired(
    fleet: &PgBouncer,
    shards: i32,
    image: &str,
    service_account: &str,
    top_customers: Option<usize>,
) -> Desired {
    let shard = |shard| {
        let mut stateful_set = stateful_set(fleet, shard, image, service_account);
        if let Some(top) = top_customers {
            set_env(&mut stateful_set, "TOP_CUSTOMERS", &top.to_string());
        }
        Shard { stateful_set, service: service(fleet, shard), peers: peers(fleet, shard), budget: budget(fleet, shard) }
    };
    Desired { network_policy: network_policy(fleet), shards: (0..shards).map(shard).collect() }
}

/// The processes of a shard. They start all at once, as none depends on another; an update restarts them one by one.
fn stateful_set(fleet: &PgBouncer, shard: i32, image: &str, service_account: &str) -> StatefulSet {
    let name = fleet::shard(&fleet.name_any(), shard);
    let cold: Vec<String> =
        config::needing_restart(&fleet.spec.parameters).iter().map(|(name, value)| format!("{name}={value}")).collect();
    let annotations = (!cold.is_empty()).then(|| [(COLD_PARAMETERS.to_owned(), cold.join(","))].into());
    StatefulSet {
        metadata: metadata(fleet, name.clone()),
        spec: Some(StatefulSetSpec {
            replicas: Some(fleet.spec.replicas),
            pod_management_policy: Some("Parallel".into()),
            service_name: Some(fleet::peers_service(&name)),
            selector: LabelSelector { match_labels: Some(selector(&name)), ..LabelSelector::default() },
            template: PodTemplateSpec {
                metadata: Some(ObjectMeta { labels: Some(labels(fleet, &name)), annotations, ..ObjectMeta::default() }),
                spec: Some(pod(fleet, shard, image, service_account)),
            },
            ..StatefulSetSpec::default()
        }),
        status: None,
    }
}

fn pod(fleet: &PgBouncer, shard: i32, image: &str, service_account: &str) -> PodSpec {
    let name = fleet::shard(&fleet.name_any(), shard);
    PodSpec {
        service_account_name: Some(service_account.to_owned()),
        // The time limits of the agent, and some seconds to exit.
        termination_grace_period_seconds: Some(ANNOUNCE_SECONDS + DRAIN_SECONDS + 15),
        security_context: Some(PodSecurityContext {
            run_as_non_root: Some(true),
            run_as_user: Some(65532),
            run_as_group: Some(65532),
            fs_group: Some(65532),
            seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".into(), ..SeccompProfile::default() }),
            ..PodSecurityContext::default()
        }),
        topology_spread_constraints: Some(vec![
            spread(&name, "kubernetes.io/hostname"),
            spread(&name, "topology.kubernetes.io/zone"),
        ]),
        containers: vec![container(fleet, shard, image)],
        volumes: Some(vec![Volume {
            name: "run".into(),
            // The files contain passwords and must not be written to a disk.
            empty_dir: Some(EmptyDirVolumeSource {
                medium: Some("Memory".into()),
                size_limit: Some(Quantity("64Mi".into())),
            }),
            ..Volume::default()
        }]),
        ..PodSpec::default()
    }
}

fn set_env(stateful_set: &mut StatefulSet, name: &str, text: &str) {
    let pod = stateful_set.spec.as_mut().and_then(|spec| spec.template.spec.as_mut());
    for container in pod.into_iter().flat_map(|pod| &mut pod.containers) {
        container.env.get_or_insert_default().push(value(name, text));
    }
}

/// The agent with pgbouncer as its child process, in one container: neither runs without the other.
fn container(fleet: &PgBouncer, shard: i32, image: &str) -> Container {
    // Not set in the first shard, whose pods then need no restart when a fleet gets shards.
    let shard = (shard > 0).then(|| value("SHARD", &shard.to_string()));
    Container {
        name: "pgbouncer".into(),
        image: Some(image.to_owned()),
        command: Some(vec!["ahoi-pgbouncer-agent".into(), "--leader-elect=false".into()]),
        env: Some(
            [
                value("FLEET", &fleet.name_any()),
                field("POD_NAME", "metadata.name"),
                field("POD_NAMESPACE", "metadata.namespace"),
                field("POD_UID", "metadata.uid"),
                value("DRAIN_ANNOUNCE_SECONDS", &ANNOUNCE_SECONDS.to_string()),
                value("DRAIN_SECONDS", &DRAIN_SECONDS.to_string()),
                memory_limit(),
            ]
            .into_iter()
            .chain(shard)
            .collect(),
        ),
        ports: Some(vec![port("postgresql", i32::from(PORT)), port("metrics", AGENT_PORT)]),
        readiness_probe: Some(Probe { period_seconds: Some(2), failure_threshold: Some(2), ..probe("/readyz") }),
        liveness_probe: Some(Probe { period_seconds: Some(10), failure_threshold: Some(6), ..probe("/livez") }),
        resources: Some(fleet.spec.resources.clone().unwrap_or_else(default_resources)),
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            read_only_root_filesystem: Some(true),
            capabilities: Some(Capabilities { drop: Some(vec!["ALL".into()]), ..Capabilities::default() }),
            ..SecurityContext::default()
        }),
        volume_mounts: Some(vec![VolumeMount {
            name: "run".into(),
            mount_path: "/run/pgbouncer".into(),
            ..VolumeMount::default()
        }]),
        ..Container::default()
    }
}

/// The address of a shard, with its ready processes as endpoints.
fn service(fleet: &PgBouncer, shard: i32) -> Service {
    let name = fleet::shard(&fleet.name_any(), shard);
    Service {
        metadata: metadata(fleet, name.clone()),
        spec: Some(ServiceSpec {
            type_: Some("ClusterIP".into()),
            selector: Some(selector(&name)),
            ports: Some(vec![service_port()]),
            ..ServiceSpec::default()
        }),
        status: None,
    }
}

/// The address of each process, ready or not: a cancel request must reach the one it is for.
fn peers(fleet: &PgBouncer, shard: i32) -> Service {
    let name = fleet::shard(&fleet.name_any(), shard);
    Service {
        metadata: ObjectMeta { name: Some(fleet::peers_service(&name)), ..metadata(fleet, name.clone()) },
        spec: Some(ServiceSpec {
            cluster_ip: Some("None".into()),
            publish_not_ready_addresses: Some(true),
            selector: Some(selector(&name)),
            ports: Some(vec![service_port()]),
            ..ServiceSpec::default()
        }),
        status: None,
    }
}

/// Evictions take one process of a shard at a time.
fn budget(fleet: &PgBouncer, shard: i32) -> PodDisruptionBudget {
    let name = fleet::shard(&fleet.name_any(), shard);
    PodDisruptionBudget {
        metadata: metadata(fleet, name.clone()),
        spec: Some(PodDisruptionBudgetSpec {
            max_unavailable: Some(IntOrString::Int(1)),
            selector: Some(LabelSelector { match_labels: Some(selector(&name)), ..LabelSelector::default() }),
            ..PodDisruptionBudgetSpec::default()
        }),
        status: None,
    }
}

/// Admits pods in namespaces of customers with a pool in the fleet, and pods of the fleet's own namespace: the controllers and
/// the other processes. Namespaces for monitoring can read metrics. NetworkPolicies do not apply to the kubelet's probes.
fn network_policy(fleet: &PgBouncer) -> NetworkPolicy {
    let name = fleet.name_any();
    let own = NetworkPolicyPeer { pod_selector: Some(LabelSelector::default()), ..NetworkPolicyPeer::default() };
    let pods = [("app.kubernetes.io/name", "pgbouncer"), (INSTANCE_LABEL, &name)];
    NetworkPolicy {
        spec: Some(NetworkPolicySpec {
            pod_selector: Some(LabelSelector {
                match_labels: Some(pods.map(|(key, value)| (key.to_owned(), value.to_owned())).into()),
                ..LabelSelector::default()
            }),
            policy_types: Some(vec!["Ingress".into()]),
            ingress: Some(vec![
                allowed(vec![namespaces(&fleet_access_label(&name)), own], PORT.into()),
                allowed(vec![namespaces(MONITORING_LABEL)], AGENT_PORT),
            ]),
            ..NetworkPolicySpec::default()
        }),
        metadata: metadata(fleet, name),
    }
}

fn namespaces(label: &str) -> NetworkPolicyPeer {
    let labels = [(label.to_owned(), "true".to_owned())].into();
    NetworkPolicyPeer {
        namespace_selector: Some(LabelSelector { match_labels: Some(labels), ..LabelSelector::default() }),
        ..NetworkPolicyPeer::default()
    }
}

fn allowed(from: Vec<NetworkPolicyPeer>, port: i32) -> NetworkPolicyIngressRule {
    let port = NetworkPolicyPort { protocol: Some("TCP".into()), port: Some(IntOrString::Int(port)), end_port: None };
    NetworkPolicyIngressRule { from: Some(from), ports: Some(vec![port]) }
}

fn metadata(fleet: &PgBouncer, shard: String) -> ObjectMeta {
    ObjectMeta {
        labels: Some(labels(fleet, &shard)),
        name: Some(shard),
        namespace: fleet.namespace(),
        ..ObjectMeta::default()
    }
}

fn selector(shard: &str) -> BTreeMap<String, String> {
    [(FLEET_LABEL.to_owned(), shard.to_owned())].into()
}

fn labels(fleet: &PgBouncer, shard: &str) -> BTreeMap<String, String> {
    let mut labels = selector(shard);
    labels.insert("app.kubernetes.io/name".into(), "pgbouncer".into());
    labels.insert(INSTANCE_LABEL.into(), fleet.name_any());
    labels.insert("app.kubernetes.io/managed-by".into(), "ahoi-pgbouncer".into());
    labels
}

fn spread(shard: &str, topology: &str) -> TopologySpreadConstraint {
    TopologySpreadConstraint {
        max_skew: 1,
        topology_key: topology.to_owned(),
        when_unsatisfiable: "ScheduleAnyway".into(),
        label_selector: Some(LabelSelector { match_labels: Some(selector(shard)), ..LabelSelector::default() }),
        ..TopologySpreadConstraint::default()
    }
}

fn default_resources() -> ResourceRequirements {
    let quantities = |pairs: &[(&str, &str)]| {
        Some(pairs.iter().map(|(name, quantity)| ((*name).to_owned(), Quantity((*quantity).to_owned()))).collect())
    };
    ResourceRequirements {
        requests: quantities(&[("cpu", "50m"), ("memory", "64Mi")]),
        limits: quantities(&[("memory", "1Gi")]),
        ..ResourceRequirements::default()
    }
}

fn probe(path: &str) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.to_owned()),
            port: IntOrString::Int(AGENT_PORT),
            ..HTTPGetAction::default()
        }),
        timeout_seconds: Some(3),
        ..Probe::default()
    }
}

fn port(name: &str, number: i32) -> ContainerPort {
    ContainerPort { name: Some(name.to_owned()), container_port: number, ..ContainerPort::default() }
}

fn service_port() -> ServicePort {
    ServicePort {
        name: Some("postgresql".into()),
        port: i32::from(PORT),
        target_port: Some(IntOrString::String("postgresql".into())),
        ..ServicePort::default()
    }
}

fn value(name: &str, value: &str) -> EnvVar {
    EnvVar { name: name.to_owned(), value: Some(value.to_owned()), value_from: None }
}

/// In bytes; the memory of the node if the fleet sets no limit.
fn memory_limit() -> EnvVar {
    let field = ResourceFieldSelector { resource: "limits.memory".into(), ..ResourceFieldSelector::default() };
    EnvVar {
        name: "MEMORY_LIMIT".to_owned(),
        value: None,
        value_from: Some(EnvVarSource { resource_field_ref: Some(field), ..EnvVarSource::default() }),
    }
}

fn field(name: &str, path: &str) -> EnvVar {
    let field = ObjectFieldSelector { field_path: path.to_owned(), ..ObjectFieldSelector::default() };
    EnvVar {
        name: name.to_owned(),
        value: None,
        value_from: Some(EnvVarSource { field_ref: Some(field), ..EnvVarSource::default() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ahoi_api::PgBouncerSpec;

    fn fleet() -> PgBouncer {
        let mut fleet = PgBouncer::new("global", PgBouncerSpec { replicas: 2, ..PgBouncerSpec::default() });
        fleet.metadata.namespace = Some("ahoi-system".into());
        fleet
    }

    #[test]
    fn what_a_fleet_is_made_of() {
        let fleet = fleet();
        insta::assert_yaml_snapshot!((
            stateful_set(&fleet, 0, "localhost/ahoi-pgbouncer:1", "ahoi-pgbouncer-agent"),
            service(&fleet, 0),
            peers(&fleet, 0),
            budget(&fleet, 0),
            network_policy(&fleet),
        ));
    }

    #[test]
    fn another_shard_has_names_of_its_own_throughout() {
        let one = |shard: i32| {
            let fleet = fleet();
            let parts = (
                stateful_set(&fleet, shard, "i", "s"),
                service(&fleet, shard),
                peers(&fleet, shard),
                budget(&fleet, shard),
            );
            serde_json::to_string_pretty(&parts).unwrap()
        };
        let (first, other) = (one(0), one(3));
        let lines: Vec<&str> = other.lines().filter(|line| !first.contains(line)).map(str::trim).collect();
        insta::assert_debug_snapshot!(lines);
    }

    #[test]
    fn only_parameters_that_need_a_restart_change_the_pods() {
        let base = stateful_set(&fleet(), 0, "i", "s");
        let mut other = fleet();
        other.spec.parameters = [("query_timeout".into(), "5".into())].into();
        other.spec.max_client_connections = 9;
        assert_eq!(stateful_set(&other, 0, "i", "s"), base, "pgbouncer reloads these");
        other.spec.parameters = [("pkt_buf".into(), "8192".into())].into();
        assert_ne!(stateful_set(&other, 0, "i", "s"), base);
    }
}
