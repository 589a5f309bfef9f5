//! `PgBouncer`, a fleet of pgbouncer processes, and `ConnectionPool`, the pool of one customer in it.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ResourceRequirements;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Binding, FleetTls, HeldServer, LocalRef, NamespacedRef, Passwords, PoolMode};

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
    scale(
        spec_replicas_path = ".spec.replicas",
        status_replicas_path = ".status.replicas",
        label_selector_path = ".status.selector"
    ),
    derive = "PartialEq",
    validation = Rule::new("self.metadata.name.size() <= 40").message("metadata.name must be at most 40 characters: pods are named after it"),
    printcolumn(name = "Host", type_ = "string", json_path = ".status.host"),
    printcolumn(name = "Replicas", type_ = "integer", json_path = ".status.replicas"),
    printcolumn(name = "Ready-Replicas", type_ = "integer", json_path = ".status.readyReplicas"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Since", type_ = "date", json_path = ".status.conditions[?(@.type==\"Ready\")].lastTransitionTime"),
    printcolumn(name = "Status", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].message"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct PgBouncerSpec {
    /// Number of pgbouncer processes of each shard, each in a pod of its own. Default 2. `kubectl scale` and
    /// autoscalers change this field.
    #[serde(default = "default_replicas")]
    #[schemars(range(min = 1, max = 64))]
    pub replicas: i32,
    /// Number of shards. A shard is a group of `replicas` processes with an address of its own that serves a part of
    /// the pools. Default 1. A pool stays in its shard. A shard with pools cannot be removed.
    #[serde(default = "default_shards")]
    #[schemars(range(min = 1, max = 64))]
    pub shards: i32,
    /// Maximum number of pools in each shard. Further pools wait for another shard. Default 2000. The work of pgbouncer
    /// at a reload grows with the square of this number. Lowering it moves no pool.
    #[serde(default = "default_max_routes")]
    #[schemars(range(min = 1, max = 2000))]
    pub max_routes_per_shard: i32,
    /// Image with pgbouncer and its agent. Unset: the image of the release.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub image: Option<String>,
    /// How server connections are shared, for pools that set no mode. Default Transaction.
    #[serde(default)]
    pub pool_mode: PoolMode,
    /// Maximum number of server connections of a pool in each process, for pools that set none. Default 8.
    #[serde(default = "default_pool_size")]
    #[schemars(range(min = 1, max = 1000))]
    pub default_pool_size: i32,
    /// Number of client connections that each process is sized for. Default 5000. A process accepts more, as far as its
    /// memory and open files allow, so that clients that connect without logging in do not block others.
    #[serde(default = "default_max_clients")]
    #[schemars(range(min = 1, max = 100_000))]
    pub max_client_connections: i32,
    /// Maximum number of client connections of a pool in each process, for pools that set none. They are counted every
    /// second; further logins are refused, and connections above the limit are closed. Unset: a fifth of
    /// maxClientConnections.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100_000))]
    pub default_max_client_connections: Option<i32>,
    /// Limit of the server connections of all pools and processes.
    #[serde(default, skip_serializing_if = "ConnectionBudget::is_default")]
    pub connection_budget: ConnectionBudget,
    /// Further settings of pgbouncer.ini. Settings that Ahoi manages itself are refused. query_timeout and
    /// idle_transaction_timeout (in seconds) apply to pools that set none.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64))]
    pub parameters: BTreeMap<String, String>,
    /// TLS of connections to pgbouncer, and from pgbouncer to servers.
    #[serde(default)]
    pub tls: FleetTls,
    /// Resource requests and limits of the pgbouncer container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,
}

/// Limit of the server connections of a fleet. If the sum of all pool sizes in all processes exceeds the limit of a
/// server, the largest pools are reduced until it fits, but not below 1.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConnectionBudget {
    /// Sum of all pool sizes, in percent of the connections that the DatabaseServer has for pgbouncer. Default 100: a
    /// pool always gets its connections. A larger value allows larger pools that are not all busy at once; if they are,
    /// PostgreSQL refuses connections and clients wait.
    #[serde(default = "default_overcommit")]
    #[schemars(range(min = 10, max = 1000))]
    pub overcommit_percent: i32,
}

impl Default for ConnectionBudget {
    fn default() -> Self {
        ConnectionBudget { overcommit_percent: default_overcommit() }
    }
}

impl ConnectionBudget {
    fn is_default(&self) -> bool {
        *self == ConnectionBudget::default()
    }
}

fn default_overcommit() -> i32 {
    100
}

fn default_replicas() -> i32 {
    2
}

fn default_shards() -> i32 {
    1
}

fn default_max_routes() -> i32 {
    2000
}

fn default_pool_size() -> i32 {
    8
}

fn default_max_clients() -> i32 {
    5000
}

/// Observed state of the PgBouncer fleet.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct PgBouncerStatus {
    /// Generation of the spec that this status describes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Host name for clients: that of the first shard.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Shards of the fleet. Empty if there is only one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["index".into()]))]
    pub shards: Vec<ShardStatus>,
    /// Number of pgbouncer processes of all shards that are to run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<i32>,
    /// Number of pgbouncer processes of all shards that serve clients.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready_replicas: Option<i32>,
    /// Label selector of the pods of the first shard, for autoscalers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,
    /// Names of the pods that serve clients.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub serving: Vec<String>,
    /// What each process has loaded. The agent beside each process writes its own entry.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["pod".into()]))]
    pub processes: Vec<ProcessStatus>,
    /// Ready; and while they are true Reconciling and Stalled.
    #[serde(default, deserialize_with = "crate::conditions::deserialize", skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

/// State of a shard.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ShardStatus {
    /// Number of the shard, starting at 0.
    pub index: i32,
    /// Host name for clients of the shard.
    pub host: String,
    /// Whether the shard accepts new pools.
    pub room: ShardRoom,
}

/// Whether a shard accepts new pools.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ShardRoom {
    /// The shard accepts new pools.
    #[default]
    Open,
    /// The shard has as many pools as `maxRoutesPerShard` allows.
    Full,
    /// The shard is removed when its last pool was deleted.
    Closing,
}

/// What a pgbouncer process has loaded, confirmed by its agent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProcessStatus {
    /// Name of the pod.
    pub pod: String,
    /// Uid of the pod. A recreated pod of the same name has loaded nothing.
    pub uid: String,
    /// Largest resourceVersion of the ConnectionPools up to which the process has loaded everything.
    pub proved_version: i64,
    /// Number of routes that the process has loaded.
    pub routes: i64,
    /// Routes that the agent refused to load.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refused: Vec<RefusedRoute>,
    /// Routes that are being removed and whose clients are still in a transaction, as namespace/name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub draining: Vec<String>,
    /// Servers whose clients the process holds, sorted by name. At most 50.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub held: Vec<HeldServer>,
    /// DatabaseServers with fewer connections for this process than it has routes. Each route has one connection
    /// nevertheless, so the server may refuse some.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub overcommitted: Vec<String>,
    /// Former logins that still have clients or server connections in this process, sorted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub retiring: Vec<String>,
    /// Why the last load failed. The agent retries.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// A route that an agent refused to load.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RefusedRoute {
    /// ConnectionPool of the route, as namespace/name.
    pub pool: String,
    /// Why the route was refused.
    pub reason: String,
}

/// The connection pool of one customer in a PgBouncer fleet. Created by the Customer controller.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "internal.example.com",
    version = "v1",
    kind = "ConnectionPool",
    doc = "The connection pool of one customer in a PgBouncer fleet. Created by the Customer controller.",
    namespaced,
    shortname = "pool",
    category = "ahoi",
    status = "ConnectionPoolStatus",
    selectable = ".spec.pgBouncerRef.name",
    derive = "PartialEq",
    validation = Rule::new("self.metadata.name.size() <= 52").message("metadata.name must be at most 52 characters: the Secret is named after it"),
    printcolumn(name = "Database", type_ = "string", json_path = ".spec.databaseRef.name"),
    printcolumn(name = "Fleet", type_ = "string", json_path = ".spec.pgBouncerRef.name"),
    printcolumn(name = "Shard", type_ = "integer", json_path = ".status.place.shard", priority = 1),
    printcolumn(name = "State", type_ = "string", json_path = ".spec.state"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Since", type_ = "date", json_path = ".status.conditions[?(@.type==\"Ready\")].lastTransitionTime"),
    printcolumn(name = "Status", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].message"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct ConnectionPoolSpec {
    /// Database of the pool.
    pub database_ref: LocalRef,
    /// PgBouncer fleet of the pool.
    pub pg_bouncer_ref: NamespacedRef,
    /// How server connections are shared. Unset: the mode of the fleet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool_mode: Option<PoolMode>,
    /// Maximum number of server connections in each process. It is reduced if the server has too few connections for
    /// all pools. Unset: `defaultPoolSize` of the fleet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub pool_size: Option<i32>,
    /// Maximum number of client connections in each process. They are counted every second; further logins are refused,
    /// and connections above the limit are closed. Unset: the value of the fleet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100_000))]
    pub max_client_connections: Option<i32>,
    /// Maximum time of a query, and of a transaction between two queries, in seconds. pgbouncer then disconnects the
    /// client. Unlike statement_timeout, a client cannot raise it. Unset: the parameter query_timeout of the fleet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 604_800))]
    pub query_timeout_seconds: Option<i32>,
    /// Maximum time that a transaction may be idle, in seconds. pgbouncer then disconnects the client. A client cannot
    /// raise it. Unset: the parameter idle_transaction_timeout of the fleet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 604_800))]
    pub idle_transaction_timeout_seconds: Option<i32>,
    /// Replaces the server connections once each time this value changes; open transactions end first. Any string, for
    /// example a date or a ticket number. Unset: no request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub reconnect_request: Option<String>,
    /// Uid of the last migration Job of the customer that succeeded. Replaces the server connections each time it
    /// changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub migration: Option<String>,
    /// Whether clients are served. Default Active.
    #[serde(default)]
    pub state: PoolState,
}

/// Whether the clients of a pool are served.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PoolState {
    /// Clients are served.
    #[default]
    Active,
    /// Clients wait until the state is Active again.
    Paused,
    /// New connections are refused.
    Disabled,
}

/// Observed state of a ConnectionPool.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConnectionPoolStatus {
    /// Generation of the spec that this status describes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Route that the agents load.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub route: Option<Route>,
    /// Shard that serves the pool. Unset: the first shard of the fleet in the spec.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<Place>,
    /// Former shards, which serve the pool until their clients have disconnected: clients that connected before the
    /// Secret changed, and applications that have not read the Secret again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub former_places: Vec<FormerPlace>,
    /// Secret with the connection details for a connection through pgbouncer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub binding: Option<Binding>,
    /// Former login that no process of the fleet uses any more. The Database controller closes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unused_login: Option<String>,
    /// Ready (every serving process of the shard has loaded the route); CredentialsProved while new credentials are
    /// tested; and while they are true Reconciling and Stalled.
    #[serde(default, deserialize_with = "crate::conditions::deserialize", skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

/// A shard of a PgBouncer fleet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Place {
    /// PgBouncer fleet.
    pub fleet: NamespacedRef,
    /// Number of the shard, starting at 0.
    pub shard: i32,
}

/// A former shard of a pool.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FormerPlace {
    /// The shard.
    pub place: Place,
    /// State of the pool in this shard.
    pub state: FormerState,
    /// Time since which the pool is in this state.
    pub since: Time,
}

/// State of a pool in a former shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum FormerState {
    /// The Secret of the pool still has the address of this shard. Clients are served.
    Serving,
    /// The Secret has the address of another shard. Clients are served for five more minutes, so that applications can
    /// read the Secret again.
    Left,
    /// Open transactions end, and new ones are refused.
    Draining,
}

/// Route of a pool: what an agent loads into pgbouncer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Route {
    /// Name of the DatabaseServer.
    pub server: String,
    /// Host name or IP address of the server.
    pub host: String,
    /// Port of the server.
    pub port: i32,
    /// Name of the database, for clients and on the server.
    pub database: String,
    /// Database on the same server in which passwords are looked up.
    pub auth_database: String,
    /// How pgbouncer gets the passwords. Default Lookup.
    #[serde(default)]
    pub passwords: Passwords,
    /// Login whose verifier an agent needs before it loads the route. Set only if `passwords` is File.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub login: Option<String>,
    /// How server connections are shared.
    pub pool_mode: PoolMode,
    /// Maximum number of server connections in each process. It is reduced if the server has too few connections for
    /// all pools.
    pub pool_size: i32,
    /// Maximum number of client connections in each process. Unset: the value of the fleet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_client_connections: Option<i32>,
    /// Maximum time of a query in seconds. Unset: the value of the fleet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub query_timeout_seconds: Option<i32>,
    /// Maximum time that a transaction may be idle, in seconds. Unset: the value of the fleet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_transaction_timeout_seconds: Option<i32>,
    /// Last reconnectRequest of the pool. When it changes, each process replaces its server connections.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reconnect_request: Option<String>,
    /// Last migration of the pool. When it changes, each process replaces its server connections.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub migration: Option<String>,
    /// Whether clients are served. Default Active.
    #[serde(default)]
    pub state: PoolState,
    /// Former login of the database that is to be closed. The agents report which processes still have clients of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retiring: Option<String>,
}
