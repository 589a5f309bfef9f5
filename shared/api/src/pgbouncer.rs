//! `PgBouncer`, the platform's fleet of poolers, and `ConnectionPool`, one customer's place in it.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ResourceRequirements;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Binding, FleetTls, LocalRef, NamespacedRef, PoolMode};

/// A fleet of pgbouncer processes that serves the connection pools of many customers on many servers at one address.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "internal.example.com",
    version = "v1",
    kind = "PgBouncer",
    doc = "A fleet of pgbouncer processes that serves the pools of many customers on many servers at one address.",
    plural = "pgbouncers",
    namespaced,
    shortname = "pgb",
    category = "ahoi",
    status = "PgBouncerStatus",
    derive = "PartialEq",
    validation = Rule::new("self.metadata.name.size() <= 40").message("metadata.name must be at most 40 characters: pods are named after it"),
    printcolumn(name = "Host", type_ = "string", json_path = ".status.host"),
    printcolumn(name = "Processes", type_ = "string", json_path = ".status.summary"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Status", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].message"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct PgBouncerSpec {
    /// How many processes, each in a pod of its own.
    #[serde(default = "default_replicas")]
    #[schemars(range(min = 1, max = 64))]
    pub replicas: i32,
    /// Image with pgbouncer and its agent. Unset: that of the suite's release.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub image: Option<String>,
    /// How server connections are shared where a pool says nothing.
    #[serde(default)]
    pub pool_mode: PoolMode,
    /// Server connections for each pool in each process where a pool says nothing.
    #[serde(default = "default_pool_size")]
    #[schemars(range(min = 1, max = 1000))]
    pub default_pool_size: i32,
    /// Client connections each process accepts.
    #[serde(default = "default_max_clients")]
    #[schemars(range(min = 1, max = 100_000))]
    pub max_client_connections: i32,
    /// Further settings of pgbouncer, by their names in pgbouncer.ini. Those that the suite sets itself are refused.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64))]
    pub parameters: BTreeMap<String, String>,
    /// How connections to pgbouncer, and from it to the servers, are secured.
    #[serde(default)]
    pub tls: FleetTls,
    /// Requests and limits of the pgbouncer container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,
}

fn default_replicas() -> i32 {
    2
}

fn default_pool_size() -> i32 {
    8
}

fn default_max_clients() -> i32 {
    5000
}

/// How a fleet is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct PgBouncerStatus {
    /// The generation of the spec that this status describes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The address that applications connect to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Processes that serve and processes wanted, such as 2/2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub summary: Option<String>,
    /// What each process has proved to have loaded; each entry is written by the agent beside that process alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["pod".into()]))]
    pub processes: Vec<ProcessStatus>,
    /// Ready, and Reconciling or Stalled while they hold.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

/// What one pgbouncer process has proved to have loaded.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProcessStatus {
    /// Name of the pod.
    pub pod: String,
    /// The pod's uid: a re-created pod of the same name starts from nothing.
    pub uid: String,
    /// Everything up to this resourceVersion of the ConnectionPools is loaded in this process.
    pub proved_version: i64,
    /// How many routes it has loaded.
    pub routes: i64,
    /// Routes the agent refused to load, by namespace/name; never handed to pgbouncer.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refused: Vec<RefusedRoute>,
    /// Routes on their way out, by namespace/name, whose clients are still in a transaction.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub draining: Vec<String>,
    /// Why the last load is not proved; the agent tries again until it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// A route that an agent refused.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RefusedRoute {
    /// The ConnectionPool, as namespace/name.
    pub pool: String,
    /// What was wrong with it.
    pub reason: String,
}

/// One customer's place in a fleet. Made by the Customer's controller.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "internal.example.com",
    version = "v1",
    kind = "ConnectionPool",
    doc = "One customer in a fleet of pgbouncer. Made by the Customer controller.",
    namespaced,
    shortname = "pool",
    category = "ahoi",
    status = "ConnectionPoolStatus",
    derive = "PartialEq",
    validation = Rule::new("self.metadata.name.size() <= 52").message("metadata.name must be at most 52 characters: the Secret is named after it"),
    printcolumn(name = "Database", type_ = "string", json_path = ".spec.databaseRef.name"),
    printcolumn(name = "State", type_ = "string", json_path = ".spec.state"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Status", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].message"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct ConnectionPoolSpec {
    /// The Database it leads to.
    pub database_ref: LocalRef,
    /// The fleet it is in.
    pub pg_bouncer_ref: NamespacedRef,
    /// How server connections are shared. Unset: as the fleet says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool_mode: Option<PoolMode>,
    /// Server connections in each process. Unset: as the fleet says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub pool_size: Option<i32>,
    /// Client connections in each process. Unset: no bound but the fleet's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100_000))]
    pub max_client_connections: Option<i32>,
    /// Whether clients are served.
    #[serde(default)]
    pub state: PoolState,
}

/// Whether a pool's clients are served.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PoolState {
    /// They are.
    #[default]
    Active,
    /// They wait until it is Active again.
    Paused,
    /// New ones are refused.
    Disabled,
}

/// What the controller made of a ConnectionPool.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConnectionPoolStatus {
    /// The generation of the spec that this status describes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Where the pool leads; what the agents load.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub route: Option<Route>,
    /// The Secret to connect through the fleet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub binding: Option<Binding>,
    /// Ready (every process of the fleet has proved the route), and Reconciling or Stalled while they hold.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

/// Where a pool leads: everything an agent needs to know about it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Route {
    /// Name of the DatabaseServer.
    pub server: String,
    /// Its host.
    pub host: String,
    /// Its port.
    pub port: i32,
    /// The database, both as clients name it and on the server.
    pub database: String,
    /// The database on the same server in which passwords are looked up.
    pub auth_database: String,
    /// The login that looks them up; its password is in the suite's Secret under the server's name.
    pub auth_login: String,
    /// How server connections are shared.
    pub pool_mode: PoolMode,
    /// Server connections in each process.
    pub pool_size: i32,
    /// Client connections in each process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_client_connections: Option<i32>,
    /// Whether clients are served.
    #[serde(default)]
    pub state: PoolState,
}
