//! `DatabaseServer`: a PostgreSQL server of the platform.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::size::POSITIVE;
use crate::{
    Credentials, CredentialsStatus, DeletionPolicy, Maintenance, MaintenanceStatus, NamespacedRef, ServerTls, Size,
};

/// A PostgreSQL server (14 or newer) that customers' databases are placed on. Its labels are what server selectors select.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "internal.example.com",
    version = "v1",
    kind = "DatabaseServer",
    doc = "A PostgreSQL server that databases of customers are placed on. Its labels are what server selectors select.",
    shortname = "dbserver",
    status = "DatabaseServerStatus",
    derive = "PartialEq",
    validation = Rule::new("self.metadata.name.size() <= 63 && self.metadata.name.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')")
        .message("metadata.name must be at most 63 lower-case letters, digits and '-'"),
    printcolumn(name = "Host", type_ = "string", json_path = ".spec.host"),
    printcolumn(name = "Version", type_ = "string", json_path = ".status.version"),
    printcolumn(name = "Placement", type_ = "string", json_path = ".spec.placement"),
    printcolumn(name = "Databases", type_ = "integer", json_path = ".status.databaseCount"),
    printcolumn(name = "Retained", type_ = "integer", json_path = ".status.retainedDatabaseCount"),
    printcolumn(name = "Archived", type_ = "integer", json_path = ".status.archivedDatabaseCount", priority = 1),
    printcolumn(name = "Connections", type_ = "integer", json_path = ".status.maxConnections"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Since", type_ = "date", json_path = ".status.conditions[?(@.type==\"Ready\")].lastTransitionTime"),
    printcolumn(name = "Status", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].message"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct DatabaseServerSpec {
    /// Host name or IP address of the server, as pods reach it. For example pg-1.databases.svc.
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[A-Za-z0-9]([-A-Za-z0-9.:]*[A-Za-z0-9])?$"))]
    pub host: String,
    /// Port of the server. Default 5432. If the host is a Service, its pods must listen on the same port, or
    /// NetworkPolicies block direct connections of customers.
    #[serde(default = "default_port")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: i32,
    /// Secret with the keys `username` and `password` of a role with CREATEDB and CREATEROLE or of a superuser. It must
    /// be in the namespace of Ahoi.
    pub admin_secret_ref: NamespacedRef,
    /// Database that the controllers connect to for statements about the whole server. Default postgres.
    #[serde(default = "default_admin_database")]
    #[schemars(length(min = 1, max = 63))]
    pub admin_database: String,
    /// TLS of connections to the server.
    #[serde(default)]
    pub tls: ServerTls,
    /// Which new databases are placed on this server. Databases on the server stay. Default Open.
    #[serde(default)]
    pub placement: Placement,
    /// Maximum number of databases on this server. Unset: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100_000))]
    pub max_databases: Option<i32>,
    /// Maximum number of server connections of all PgBouncer fleets together. Unset: `status.maxConnections`. Set it
    /// lower if applications connect to the server directly, because their connections are not counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100_000))]
    pub max_pooler_connections: Option<i32>,
    /// Maximum sum of the storage of all databases on this server, for example 2tb. Unset: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_storage: Option<Size>,
    /// Size of the disk with the data directory, for example 100Gi. The condition DiskOk is False from 85 % of it on.
    /// Unset: there is no condition DiskOk, because PostgreSQL cannot report the size.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new(POSITIVE).message("diskSize must be more than 0"))]
    pub disk_size: Option<Size>,
    /// When the login is replaced by which pgbouncer looks up passwords on this server. Unset: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pooler_credentials: Option<Credentials>,
    /// Id of a former cluster whose databases on this server now belong to this cluster: a Database of the same
    /// namespace and name adopts the data. Use it only for a cluster that does not exist any more.
    /// `status.otherClusters` has the ids.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 16, max = 16), regex(pattern = r"^[0-9a-f]{16}$"))]
    pub adopt_from_cluster: Option<String>,
    /// Ids of other clusters that use this server. Their databases are left alone: a Database of the same namespace and
    /// name gets a new, empty database. `status.otherClusters` has the ids.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(min = 16, max = 16), regex(pattern = r"^[0-9a-f]{16}$")))]
    pub shared_with_clusters: Vec<String>,
    /// Request to restart PostgreSQL without a failed query. Unset: no request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub maintenance: Option<Maintenance>,
}

fn default_port() -> i32 {
    5432
}

fn default_admin_database() -> String {
    "postgres".to_owned()
}

impl DatabaseServer {
    /// Maximum number of server connections of all PgBouncer fleets together. `None`: not observed yet.
    #[must_use]
    pub fn pooler_connections(&self) -> Option<i64> {
        let found = || self.status.as_ref().and_then(|status| status.max_connections);
        self.spec.max_pooler_connections.map(i64::from).or_else(found)
    }
}

/// Which new databases are placed on a server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Placement {
    /// Databases whose selector matches the labels of the server. An empty selector matches.
    #[default]
    Open,
    /// Databases whose selector matches with at least one label. A database without a selector is not placed here.
    Selected,
    /// No databases.
    Closed,
}

/// How pgbouncer gets the passwords of the logins on a server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Passwords {
    /// pgbouncer looks them up on the server when a client logs in. Needs an admin role that may read `pg_authid`.
    #[default]
    Lookup,
    /// pgbouncer reads SCRAM verifiers from a file, which the controller fills from Secrets in the namespace of Ahoi.
    /// The admin role needs only CREATEDB and CREATEROLE.
    File,
}

/// Observed state of a DatabaseServer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct DatabaseServerStatus {
    /// Generation of the spec that this status describes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Version of PostgreSQL, for example 17.6.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Number of databases of this cluster on the server, with retained ones. Refreshed by each sweep.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub database_count: Option<i64>,
    /// Number of databases that are retained for a Database that was deleted. A Database of the same namespace and name
    /// adopts one. While this is not 0 and the server is unreachable, new Databases wait for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retained_database_count: Option<i64>,
    /// Number of archived databases: renamed to `zz_<database>_<unix time>`, closed to all logins, and kept until an
    /// administrator restores or drops them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub archived_database_count: Option<i64>,
    /// Databases on the server without a Database in this cluster. At most 20: the 10 oldest and the 10 newest. The
    /// counts include all; the table ahoi.databases in the admin database lists all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["database".into()]))]
    pub kept: Vec<KeptDatabase>,
    /// Other clusters with databases on this server, without those in `spec.sharedWithClusters`. At most 16. A Database
    /// of the same namespace and name as one of these databases is Stalled with the reason DataOfAnotherCluster.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["id".into()]))]
    pub other_clusters: Vec<OtherCluster>,
    /// Sum of the storage of all databases on this server, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allocated_bytes: Option<i64>,
    /// Bytes that databases, WAL and temporary files use, as of the last change of more than 1 %. WAL and temporary
    /// files are included only if the admin role is a superuser or a member of `pg_monitor`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used_bytes: Option<i64>,
    /// Number of connections for ordinary logins: max_connections without the reserved ones and those of the
    /// controllers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_connections: Option<i64>,
    /// Removals of deleted Databases that are not carried out yet, because the server was unreachable or refused them.
    /// They are retried with delays of up to 10 minutes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pending_removals: Vec<PendingRemoval>,
    /// State of the last maintenance request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub maintenance: Option<MaintenanceStatus>,
    /// Login by which pgbouncer looks up passwords on this server. Unset if `passwords` is File.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pooler_login: Option<String>,
    /// Age of the credentials of the pooler login, and the former login.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pooler_credentials: Option<CredentialsStatus>,
    /// How pgbouncer gets the passwords of the logins. It follows from the privileges of the admin role.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub passwords: Option<Passwords>,
    /// Ready (the server is reachable, writable and prepared); ReadyToRestart of the last maintenance request; and
    /// while they are true Reconciling and Stalled.
    /// DiskOk is False while at least 85 % of `spec.diskSize` are used.
    /// TemporaryFilesLimited is False while temporary files of one customer can fill the disk, because the admin role
    /// may not limit them. The message has the command that grants it.
    /// DataOfOtherClusters is True while the server has databases of clusters that the spec does not name.
    /// DefaultDatabasesClosed is False while logins of customers can connect to databases such as postgres and
    /// template1, because the admin role does not own them. The message has the command for their owner.
    #[serde(default, deserialize_with = "crate::conditions::deserialize", skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

/// A cluster with databases on a server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct OtherCluster {
    /// Id of the cluster, from the ownership markers of its databases.
    pub id: String,
    /// Number of its databases on this server, without archived ones.
    pub databases: i64,
}

/// A database on the server without a Database in this cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KeptDatabase {
    /// Name of the database in PostgreSQL.
    pub database: String,
    /// Namespace of the Database that it was created for. Unset: the table ahoi.databases does not list it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Name of that Database.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Id of the cluster that it belongs to. Unset: this cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
    /// Why the database is kept.
    pub state: KeptState,
    /// Time since which it is in this state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Time>,
    /// Size in bytes when it was listed first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size_bytes: Option<i64>,
}

/// Why a database without a Database is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum KeptState {
    /// A Database of the same namespace and name adopts it.
    Retained,
    /// It is renamed and closed until an administrator restores or drops it.
    Archived,
    /// Another cluster uses it, or used it until that cluster was lost.
    Active,
}

/// A removal that is not carried out yet although the Database was deleted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PendingRemoval {
    /// Name of the database in PostgreSQL.
    pub database: String,
    /// Namespace of the deleted Database.
    pub namespace: String,
    /// Name of the deleted Database.
    pub name: String,
    /// Uid of the deleted Database. A database with another ownership marker is left alone.
    pub uid: String,
    /// Deletion policy of the Database: drop the data (Delete), rename it (Archive) or close it (Retain).
    pub policy: DeletionPolicy,
    /// Time at which the Database was deleted.
    pub since: Time,
    /// Answer of PostgreSQL to the last attempt, with its SQLSTATE.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}
