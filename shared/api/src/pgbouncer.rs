//! `PgBouncer`, the platform's fleet of poolers, and `ConnectionPool`, one customer's place in it.

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
    /// How many processes each shard has, each in a pod of its own.
    #[serde(default = "default_replicas")]
    #[schemars(range(min = 1, max = 64))]
    pub replicas: i32,
    /// How many shards: groups of `replicas` processes with an address of their own, each of which serves a part of the
    /// pools. A pool stays in the shard it was given at first, whatever this becomes. It cannot be lowered while a pool is
    /// in a shard that would go.
    #[serde(default = "default_shards")]
    #[schemars(range(min = 1, max = 64))]
    pub shards: i32,
    /// How many pools a shard takes; those beyond wait until there is another shard. pgbouncer's work at every reload
    /// grows with the square of this. Lowering it moves nobody.
    #[serde(default = "default_max_routes")]
    #[schemars(range(min = 1, max = 2000))]
    pub max_routes_per_shard: i32,
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
    /// Client connections that each process is sized for. A process accepts more, as far as its memory and open files allow, so
    /// that clients which connect and do not log in take no places of others.
    #[serde(default = "default_max_clients")]
    #[schemars(range(min = 1, max = 100_000))]
    pub max_client_connections: i32,
    /// Client connections that a pool may have in each process, if the pool does not set it. They are counted once a second;
    /// further logins are refused, and those that came in between are closed. Unset: a fifth of
    /// maxClientConnections, so that one customer never takes the places of the others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100_000))]
    pub default_max_client_connections: Option<i32>,
    /// How many server connections all processes and pools together may open on a server.
    #[serde(default, skip_serializing_if = "ConnectionBudget::is_default")]
    pub connection_budget: ConnectionBudget,
    /// Further settings of pgbouncer, by their names in pgbouncer.ini. Those that the suite sets itself are refused.
    /// query_timeout and idle_transaction_timeout (seconds) hold for every pool that sets none of its own.
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

/// How many server connections a fleet may open. Each pool has its size as long as the sum over all pools and processes
/// fits into what the server has; otherwise the largest pools are made smaller until it does, and none below 1.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConnectionBudget {
    /// The sum of all pools, in percent of the connections that the DatabaseServer has for poolers. 100: a pool always
    /// gets the connections it is promised, whatever the others do. More gives each pool more as long as not all are
    /// busy at once; when they are, PostgreSQL refuses connections, of any customer, and clients wait.
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

/// How a fleet is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct PgBouncerStatus {
    /// The generation of the spec that this status describes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The address that applications connect to; the first shard's, where there are several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// The shards, where there are several.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["index".into()]))]
    pub shards: Vec<ShardStatus>,
    /// Processes that serve and processes wanted, such as 2/2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub summary: Option<String>,
    /// Names of the pods that clients are sent to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub serving: Vec<String>,
    /// What each process has proved to have loaded; each entry is written by the agent beside that process alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["pod".into()]))]
    pub processes: Vec<ProcessStatus>,
    /// Ready, and Reconciling or Stalled while they hold.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

/// How a shard is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ShardStatus {
    /// Its number, counted from 0.
    pub index: i32,
    /// The address of its pools' clients.
    pub host: String,
    /// Whether new pools may come to it.
    pub room: ShardRoom,
}

/// Whether new pools may come to a shard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ShardRoom {
    /// They may.
    #[default]
    Open,
    /// It has as many as it takes.
    Full,
    /// It is to go, and does when its last pool has gone.
    Closing,
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
    /// Servers whose clients it makes wait, ordered by name; at most 50.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub held: Vec<HeldServer>,
    /// DatabaseServers that have fewer connections for this process than it has routes there. Each route has one all the
    /// same, so the server may refuse some.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub overcommitted: Vec<String>,
    /// Logins that routes call retiring and that still have clients or server connections here, sorted. Of those that do
    /// not fit, the pools are not proved.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub retiring: Vec<String>,
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
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
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
    printcolumn(name = "Shard", type_ = "integer", json_path = ".status.place.shard", priority = 1),
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
    /// Server connections in each process, at most: fewer where the server has not enough for all. Unset: as the fleet
    /// says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub pool_size: Option<i32>,
    /// Client connections in each process. They are counted once a second; further logins are refused, and those that came in
    /// between are closed. Unset: as the fleet says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100_000))]
    pub max_client_connections: Option<i32>,
    /// Seconds after which pgbouncer ends a client whose query runs on, or whose transaction waits for its next query.
    /// The client cannot lift it, as it can PostgreSQL's statement_timeout. Unset: as the fleet's parameter
    /// query_timeout says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 604_800))]
    pub query_timeout_seconds: Option<i32>,
    /// Seconds after which pgbouncer ends a client that leaves a transaction open and asks nothing. The client cannot lift
    /// it. Unset: as the fleet's parameter idle_transaction_timeout says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 604_800))]
    pub idle_transaction_timeout_seconds: Option<i32>,
    /// Replaces the server connections once each time this value changes. Any string.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub reconnect: Option<String>,
    /// Uid of the customer's last migration Job that succeeded. Replaces the server connections each time another one is set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub migration: Option<String>,
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
    /// Which shard of which fleet serves it. Absent: the first shard of the fleet in the spec.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<Place>,
    /// Where it was before, and is served until its clients have left: those that connected before the Secret led to
    /// another fleet, and those whose application has not read the Secret again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub former_places: Vec<FormerPlace>,
    /// The Secret to connect through the fleet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub binding: Option<Binding>,
    /// The former login that no process of the fleet uses any more; the Database's controller may close it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unused_login: Option<String>,
    /// Ready (every serving process of the pool's shard has proved the route), and Reconciling or Stalled while they hold.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

/// A shard of a fleet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Place {
    /// The PgBouncer.
    pub fleet: NamespacedRef,
    /// The shard's number, counted from 0.
    pub shard: i32,
}

/// A place that a pool leaves.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FormerPlace {
    /// The shard that it was in.
    pub place: Place,
    /// Serving until the Secret leads to the new place, then Left for five minutes, then Draining.
    pub state: FormerState,
    /// Since when the state is this one.
    pub since: Time,
}

/// How far a pool has left a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum FormerState {
    /// The pool's Secret leads to it: its clients are served as before.
    Serving,
    /// The Secret leads elsewhere: its clients are served as before for as long as applications may need to read that.
    Left,
    /// Transactions end, and nothing new begins.
    Draining,
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
    /// Whether passwords are looked up on the server or known beforehand.
    #[serde(default)]
    pub passwords: Passwords,
    /// Where `passwords` is File: the login whose verifier an agent must have before it loads the route.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub login: Option<String>,
    /// How server connections are shared.
    pub pool_mode: PoolMode,
    /// Server connections in each process, at most: fewer where the server has not enough for all.
    pub pool_size: i32,
    /// Client connections in each process. Unset: as the fleet says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_client_connections: Option<i32>,
    /// Seconds that a query may take. Unset: as the fleet says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub query_timeout_seconds: Option<i32>,
    /// Seconds that a transaction may be idle. Unset: as the fleet says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_transaction_timeout_seconds: Option<i32>,
    /// Each time this changes, each process replaces its server connections.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reconnect: Option<String>,
    /// Each time another one is set, each process replaces its server connections.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub migration: Option<String>,
    /// Whether clients are served.
    #[serde(default)]
    pub state: PoolState,
    /// A former login of the database that is to be closed; the agents say who of them still has clients of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retiring: Option<String>,
}
