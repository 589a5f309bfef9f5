//! `Database`: one customer's database on one server.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::size::{GROWS, POSITIVE};
use crate::{Binding, Credentials, CredentialsStatus, DeletionPolicy, Size};

/// A PostgreSQL database, open to its own login only. Created by the Customer controller.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "internal.example.com",
    version = "v1",
    kind = "Database",
    doc = "A PostgreSQL database of one customer. Created by the Customer controller.",
    namespaced,
    shortname = "cdb",
    category = "ahoi",
    status = "DatabaseStatus",
    derive = "PartialEq",
    selectable = ".status.server",
    validation = Rule::new("self.metadata.name.size() <= 52").message("metadata.name must be at most 52 characters: the Secret is named after it"),
    printcolumn(name = "Server", type_ = "string", json_path = ".status.server"),
    printcolumn(name = "Database", type_ = "string", json_path = ".status.databaseName"),
    printcolumn(name = "Storage", type_ = "string", json_path = ".spec.storage"),
    printcolumn(name = "Size", type_ = "integer", json_path = ".status.sizeBytes"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Since", type_ = "date", json_path = ".status.conditions[?(@.type==\"Ready\")].lastTransitionTime"),
    printcolumn(name = "Status", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].message"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct DatabaseSpec {
    /// Storage that the database may use, for example 256gb, 256Gi or 1.5tb. gb is 10^9 bytes, Gi is 2^30 bytes. It can
    /// only be raised. The size is measured every 20 seconds. From 80 % of the storage on, the condition StorageQuotaOk
    /// is False with the reason StorageQuotaWarning. Within 60 seconds after 100 %, INSERT, UPDATE and statements that
    /// create or alter objects are refused with SQLSTATE 53100 (disk_full), and open sessions are ended once. SELECT,
    /// DELETE, TRUNCATE, DROP TABLE and VACUUM still work. Writes are accepted again within 60 seconds after less than
    /// 90 % is used. DELETE alone frees no space; run VACUUM FULL after it. A database that still grows by more than 1
    /// MiB in a minute is closed for 10 minutes (`status.closedUntil`). Temporary files of a session are limited to a
    /// quarter of the storage, at least 64 MiB, unless `parameters` sets temp_file_limit.
    #[x_kube(
        validation = Rule::new(POSITIVE).message("storage must be more than 0"),
        validation = Rule::new(GROWS).message("storage cannot shrink: the data might not fit")
    )]
    pub storage: Size,
    /// Labels that a DatabaseServer must have for this database. Used once: a database stays on its server. Empty: any
    /// server.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 16))]
    pub server_selector: BTreeMap<String, String>,
    /// Maximum number of concurrent connections to the database. Default 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10000))]
    pub connection_limit: Option<i32>,
    /// PostgreSQL parameters of the logins in this database, for example statement_timeout or search_path.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32))]
    pub parameters: BTreeMap<String, String>,
    /// Names of extensions to create. Each must be a trusted extension of the server. An extension that was dropped is
    /// created again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(length(min = 1, max = 63), regex(pattern = r"^[a-z][a-z0-9_-]*$")))]
    pub extensions: Vec<String>,
    /// When the login and its password are replaced. Unset: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<Credentials>,
    /// Refuses to adopt data that was retained before this time: the Database is Stalled with the reason
    /// RetainedDataExists. The Customer controller sets it to the creation of the Customer if the adoptionPolicy is
    /// Refuse. Unset: data of any age is adopted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refuse_data_before: Option<Time>,
    /// What happens to the data when this object is deleted. Default Retain. The Customer controller sets the policy of
    /// the Customer when the Customer itself is deleted.
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,
}

/// Data that an earlier Database of the same namespace and name left.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AdoptedData {
    /// Time since which the data had been retained. Unset: unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retained_since: Option<Time>,
    /// Time at which this Database adopted the data.
    pub at: Time,
    /// Id of the cluster that the data belonged to. Unset: this cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
}

/// Observed state of a Database.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct DatabaseStatus {
    /// Generation of the spec that this status describes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Name of the DatabaseServer that holds the database.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
    /// Name of the database in PostgreSQL. It is derived from the uid and recorded here before the database is created.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub database_name: Option<String>,
    /// Login of the applications of the customer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub login: Option<String>,
    /// Age of the credentials, and the former login.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<CredentialsStatus>,
    /// Storage in force, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage_bytes: Option<i64>,
    /// Size of the database in bytes, when it was measured last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size_bytes: Option<i64>,
    /// Time at which the logins are opened again. They were closed because the database kept growing after its storage
    /// was used up. They open earlier if `spec.storage` is raised. Unset: the logins are open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub closed_until: Option<Time>,
    /// Data that was adopted when the Database was created. Unset: the database was created empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adopted: Option<AdoptedData>,
    /// Secret with the connection details for a direct connection to PostgreSQL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub binding: Option<Binding>,
    /// Ready; StorageQuotaOk; and while they are true Reconciling and Stalled. StorageQuotaOk is False from 80 % of the
    /// storage on, with the reason StorageQuotaWarning, StorageQuotaExceeded (writes are refused) or
    /// StorageQuotaBreached (the logins are closed).
    #[serde(default, deserialize_with = "crate::conditions::deserialize", skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}
