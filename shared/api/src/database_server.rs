//! `DatabaseServer`: a PostgreSQL server the platform team has.

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
    category = "ahoi",
    status = "DatabaseServerStatus",
    derive = "PartialEq",
    validation = Rule::new("self.metadata.name.size() <= 63 && self.metadata.name.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')")
        .message("metadata.name must be at most 63 lower-case letters, digits and '-'"),
    printcolumn(name = "Host", type_ = "string", json_path = ".spec.host"),
    printcolumn(name = "Version", type_ = "string", json_path = ".status.version"),
    printcolumn(name = "Databases", type_ = "integer", json_path = ".status.databases"),
    printcolumn(name = "Retained", type_ = "integer", json_path = ".status.retained", priority = 1),
    printcolumn(name = "Archived", type_ = "integer", json_path = ".status.archived", priority = 1),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Status", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].message"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct DatabaseServerSpec {
    /// Host name or address of the server, as pods reach it.
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[A-Za-z0-9]([-A-Za-z0-9.:]*[A-Za-z0-9])?$"))]
    pub host: String,
    /// Port of the server. Where the host is a Service, pods must listen on the same port, or NetworkPolicies keep customers from
    /// connecting directly.
    #[serde(default = "default_port")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: i32,
    /// The Secret with `username` and `password` of a role that may create databases and roles, in the suite's namespace.
    pub admin_secret_ref: NamespacedRef,
    /// The database that the controllers connect to for what concerns the whole server.
    #[serde(default = "default_admin_database")]
    #[schemars(length(min = 1, max = 63))]
    pub admin_database: String,
    /// How connections to the server are secured.
    #[serde(default)]
    pub tls: ServerTls,
    /// Which databases are placed here. What is here stays, whatever this says.
    #[serde(default)]
    pub placement: Placement,
    /// Most databases placed here. Unset: no bound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100_000))]
    pub max_databases: Option<i32>,
    /// Connections that the poolers of all fleets together may open here. Unset: status.maxConnections. Set it lower where
    /// applications connect to the server directly: what they use is not counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100_000))]
    pub connections: Option<i32>,
    /// Storage that may be promised to customers here. Unset: no bound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capacity: Option<Size>,
    /// Size of the disk that holds the server's data directory, such as 100Gi. From 85 % of it on, the condition DiskOk is False.
    /// PostgreSQL cannot be asked for it. Unset: the condition is not there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new(POSITIVE).message("diskSize must be more than 0"))]
    pub disk_size: Option<Size>,
    /// When the login by which the poolers look up passwords here is replaced. Unset: it is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pooler_credentials: Option<Credentials>,
    /// A former cluster whose databases on this server become this cluster's: a Database of the same namespace and name adopts its
    /// data. Only for a cluster that does not exist any more. Its id is in status.otherClusters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 16, max = 16), regex(pattern = r"^[0-9a-f]{16}$"))]
    pub adopt_from_cluster: Option<String>,
    /// Clusters that use this server, too, by their ids in status.otherClusters. Their databases stay theirs: a Database of the
    /// same namespace and name gets an empty database beside.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(min = 16, max = 16), regex(pattern = r"^[0-9a-f]{16}$")))]
    pub shared_with_clusters: Vec<String>,
    /// A wish to restart PostgreSQL without a failed query. Unset: none.
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
    /// Connections that the poolers of all fleets together may open here; none while nobody has looked.
    #[must_use]
    pub fn pooler_connections(&self) -> Option<i64> {
        let found = || self.status.as_ref().and_then(|status| status.max_connections);
        self.spec.connections.map(i64::from).or_else(found)
    }
}

/// Which databases are placed on a server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Placement {
    /// All whose selector its labels satisfy; an empty selector is satisfied by all.
    #[default]
    Open,
    /// Only those that select it by at least one of its labels.
    Selected,
    /// No more.
    Closed,
}

/// How the poolers come by the passwords of the logins on a server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Passwords {
    /// Each pooler looks them up on the server when a client logs in: the admin role may read `pg_authid`.
    #[default]
    Lookup,
    /// Each pooler has them in a file, from Secrets that the controller keeps in the suite's namespace: the admin role is
    /// an ordinary one with CREATEDB and CREATEROLE. There are SCRAM verifiers in them, no passwords.
    File,
}

/// What the controller found on a server.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct DatabaseServerStatus {
    /// The generation of the spec that this status describes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// PostgreSQL's version, such as 17.6.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Databases of customers on this server, retained ones included. Refreshed by the sweep, not with every database.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub databases: Option<i64>,
    /// Of these, those that are kept for a Database that is gone: a Database of the same namespace and name finds its data
    /// here again. While the server is away, and this is not zero, new Databases wait for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retained: Option<i64>,
    /// Databases that are archived here: renamed `zz_<database>_<unix time>`, closed to all logins, and kept until an administrator
    /// restores or drops them, as docs/restore.md says. No Database finds them by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub archived: Option<i64>,
    /// Databases here that no Database of this cluster has: whose they were, since when they are kept, and how large they are. At
    /// most 20: the 10 that are kept longest and the 10 that are kept last. `retained` and `archived` count all; the table
    /// ahoi.databases in the server's admin database lists all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["database".into()]))]
    pub kept: Vec<KeptDatabase>,
    /// Clusters that databases on this server belong to by their ownership markers, without this one and without those in
    /// spec.sharedWithClusters; at most 16. A Database of the same namespace and name as one of these databases is Stalled with the
    /// reason DataOfAnotherCluster.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["id".into()]))]
    pub other_clusters: Vec<OtherCluster>,
    /// Storage promised to customers here, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allocated_bytes: Option<i64>,
    /// Bytes that all databases, the WAL and temporary files on this server use, as of the last change of more than 1 %. Without
    /// WAL and temporary files where the admin role is no superuser and no member of `pg_monitor`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used_bytes: Option<i64>,
    /// Connections the server has for ordinary logins: its max_connections without those it reserves and the few of the
    /// suite's own controller.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_connections: Option<i64>,
    /// Removals of deleted Databases that this server has not carried out: it could not be reached, or it refused. Repeated by
    /// the sweeps, with growing delays of up to 10 minutes, until they succeed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pending_removals: Vec<PendingRemoval>,
    /// The maintenance that was requested last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub maintenance: Option<MaintenanceStatus>,
    /// The login by which pgbouncer looks up passwords on this server; none where `passwords` is File.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pooler_login: Option<String>,
    /// Since when it is that one, and which one came before it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pooler_credentials: Option<CredentialsStatus>,
    /// How the poolers come by passwords, which follows from what the admin role may do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub passwords: Option<Passwords>,
    /// Ready (the server is reachable and prepared), ReadyToRestart of the maintenance that was requested last, and
    /// Reconciling or Stalled while they hold.
    /// DiskOk is False while at least 85 % of `spec.diskSize` is used.
    /// TemporaryFilesLimited is False while one customer's temporary files can fill the disk because the admin role may not
    /// limit them; its message has the command.
    /// DataOfOtherClusters is True while databases here belong to clusters of which the spec says nothing.
    /// DefaultDatabasesClosed is False while logins of customers may connect to a database that is not theirs and that
    /// the admin role does not own; its message says what the owner has to do, once.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

/// A cluster that databases on a server belong to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct OtherCluster {
    /// As in the ownership markers of its databases.
    pub id: String,
    /// How many there are, those that are archived not included.
    pub databases: i64,
}

/// A database that no Database of this cluster has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KeptDatabase {
    /// Its name on the server.
    pub database: String,
    /// Namespace of the Database that it was made for: `customer-` and the customer's name. Unset where ahoi.databases on the server
    /// does not contain it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Name of that Database, which is the customer's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Id of the cluster that it belongs to. Unset: this cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
    /// Why it is there.
    pub state: KeptState,
    /// Since when it is in this state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Time>,
    /// Bytes it had when it was listed first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size_bytes: Option<i64>,
}

/// Why a database is kept that no Database of this cluster has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum KeptState {
    /// A Database of the same namespace and name adopts it.
    Retained,
    /// Renamed and closed. It is kept until an administrator restores or drops it.
    Archived,
    /// Another cluster uses it, or did so until that cluster was lost.
    Active,
}

/// A removal that a server has not carried out yet, although the Database is deleted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PendingRemoval {
    /// The database's name on the server.
    pub database: String,
    /// Namespace of the Database that was deleted.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid: a database that has become another object's is left alone.
    pub uid: String,
    /// Deletion policy of the Database: whether its data is to be dropped (Delete), renamed (Archive) or only closed (Retain).
    pub policy: DeletionPolicy,
    /// When the Database was deleted.
    pub since: Time,
    /// Why the removal is pending: what PostgreSQL answered, with its SQLSTATE.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}
