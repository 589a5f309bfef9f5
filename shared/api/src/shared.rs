//! Small types that several kinds use.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Reference to an object in the same namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LocalRef {
    /// Name of the object.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// Reference to an object in a namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NamespacedRef {
    /// Namespace of the object.
    #[schemars(length(min = 1, max = 63))]
    pub namespace: String,
    /// Name of the object.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// Reference to a Secret with the connection details of a database.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Binding {
    /// Name of the Secret, in the namespace of the object with this status. The name of the field is that of the
    /// Service Binding specification for provisioned services.
    pub name: String,
    /// Hash of the content of the Secret. Workers are restarted when it changes.
    pub version: String,
}

/// What happens to the data when the object is deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DeletionPolicy {
    /// Keep the database on its server, closed to all logins. A new object of the same name adopts it. `status.kept` of
    /// the DatabaseServer lists it.
    #[default]
    Retain,
    /// Rename the database to `zz_<database>_<unix time>`, close it to all logins, and keep it until an administrator
    /// restores or drops it. No object adopts it. `status.kept` of the DatabaseServer lists it.
    Archive,
    /// Drop the database and its roles.
    Delete,
}

/// How pgbouncer shares server connections between clients (<https://www.pgbouncer.org/features.html>).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PoolMode {
    /// A client has a server connection for the duration of one transaction.
    #[default]
    Transaction,
    /// A client has a server connection until it disconnects.
    Session,
    /// A client has a server connection for one statement. Transactions of several statements are refused.
    Statement,
}
