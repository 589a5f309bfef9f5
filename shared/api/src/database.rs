//! `Database`: one customer's database on one server.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::size::{GROWS, POSITIVE};
use crate::{Binding, Credentials, CredentialsStatus, DeletionPolicy, Size};

/// A PostgreSQL database, closed to everybody but its own login. Made by the Customer's controller.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "internal.example.com",
    version = "v1",
    kind = "Database",
    doc = "A PostgreSQL database of one customer. Made by the Customer controller.",
    namespaced,
    shortname = "db",
    category = "ahoi",
    status = "DatabaseStatus",
    derive = "PartialEq",
    validation = Rule::new("self.metadata.name.size() <= 52").message("metadata.name must be at most 52 characters: the Secret is named after it"),
    printcolumn(name = "Server", type_ = "string", json_path = ".status.server"),
    printcolumn(name = "Database", type_ = "string", json_path = ".status.databaseName"),
    printcolumn(name = "Storage", type_ = "string", json_path = ".spec.storage"),
    printcolumn(name = "Size", type_ = "integer", json_path = ".status.sizeBytes"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Status", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].message"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct DatabaseSpec {
    /// Storage the database may use: 256gb, 256Gi, 1.5tb. It can be raised, never lowered. Every database that was written to
    /// is measured every 20 seconds. From 80 % of the storage on, the condition StorageQuotaOk is a warning. At 100 %, within 60
    /// seconds, INSERT, UPDATE and what creates or alters objects are refused with SQLSTATE 53100 (disk_full), and sessions
    /// end once. SELECT, DELETE, TRUNCATE, DROP TABLE and VACUUM work on: writes are back within 60 seconds after less than
    /// 90 % is used. DELETE alone gives nothing back; run VACUUM FULL after it. A database that still grows by more than 1 MiB
    /// in a minute is closed for 10 minutes (`status.closedUntil`). Temporary files of one session are limited to a quarter of
    /// the storage, at least 64 MiB, unless `parameters` sets temp_file_limit.
    #[x_kube(
        validation = Rule::new(POSITIVE).message("storage must be more than 0"),
        validation = Rule::new(GROWS).message("storage cannot shrink: the data might not fit")
    )]
    pub storage: Size,
    /// Labels of the DatabaseServers it may be placed on. It stays where it was placed first.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 16))]
    pub server_selector: BTreeMap<String, String>,
    /// Connections the database accepts at once. Default 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10000))]
    pub connection_limit: Option<i32>,
    /// PostgreSQL parameters set for the logins in this database, such as statement_timeout or search_path.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32))]
    pub parameters: BTreeMap<String, String>,
    /// Extensions to create; each must be one the server trusts. One that was dropped is created again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(length(min = 1, max = 63), regex(pattern = r"^[a-z][a-z0-9_-]*$")))]
    pub extensions: Vec<String>,
    /// When its login and password are replaced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<Credentials>,
    /// Data that was retained before this time is not adopted: the Database is Stalled with the reason RetainedDataExists. Unset:
    /// data of any age is. The Customer's controller sets it to the Customer's creation where its adoptionPolicy is Refuse.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refuse_data_before: Option<Time>,
    /// What becomes of the data when this object is deleted: it is kept for a Database of the same namespace and name (Retain),
    /// renamed and closed (Archive), or dropped (Delete). The Customer's controller sets the Customer's own policy
    /// when the Customer itself is deleted; in every other case the data is retained.
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,
}

/// Data that an earlier Database of the same namespace and name left.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AdoptedData {
    /// Since when it had been kept. Unset: the server does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retained_since: Option<Time>,
    /// When this Database adopted it.
    pub at: Time,
    /// The cluster that it was adopted from, where that is not this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
}

/// What the controller made of a Database. Everything needed to clean up is here, so that deletion never needs the spec.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct DatabaseStatus {
    /// The generation of the spec that this status describes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The DatabaseServer it is on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
    /// Name of the database on the server. Chosen once, from the uid, and written here before it is created.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub database_name: Option<String>,
    /// The login of the customer's applications.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub login: Option<String>,
    /// How old its password is, and which login it replaced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<CredentialsStatus>,
    /// The storage in bytes that the database may hold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage_bytes: Option<i64>,
    /// What the database held when it was last measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size_bytes: Option<i64>,
    /// Time at which the logins are opened again. They were closed because the database grew by more than 1 MiB in a minute
    /// although its storage was used up. They open earlier when `spec.storage` is raised. Unset: they are not closed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub closed_until: Option<Time>,
    /// The data that was found when the Database was created. Unset: it was created empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adopted: Option<AdoptedData>,
    /// The Secret to connect to PostgreSQL directly.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub binding: Option<Binding>,
    /// Ready, StorageQuotaOk, and Reconciling or Stalled while they hold. StorageQuotaOk is False from 80 % of the storage on, with the
    /// reason StorageQuotaWarning, StorageQuotaExceeded (writes are refused) or StorageQuotaBreached (the logins are closed).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}
