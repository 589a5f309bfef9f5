//! Small types that several kinds use.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// An object in the same namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LocalRef {
    /// Name of the object.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// An object in a namespace that is named.
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

/// A Secret that an application mounts to reach its database.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Binding {
    /// Name of the Secret, in the namespace of the object that reports it. The field's name follows the Service Binding
    /// specification for provisioned services.
    pub name: String,
    /// Changes whenever the Secret's content does; says nothing about it. Workers are rolled when it changes.
    pub version: String,
}

/// What becomes of the data when the object that describes it is deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DeletionPolicy {
    /// The database stays as it is on its server, closed to every login; an object of the same name finds it again.
    /// DatabaseServer.status.kept lists it.
    #[default]
    Retain,
    /// The database is renamed to `zz_<database>_<unix time>` on its server, closed to every login, and kept until an administrator
    /// restores or drops it. No object finds it by itself; DatabaseServer.status.kept lists it.
    Archive,
    /// The database is dropped with its roles.
    Delete,
}

/// How pgbouncer shares server connections between clients (<https://www.pgbouncer.org/features.html>).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PoolMode {
    /// A server connection is a client's for one transaction.
    #[default]
    Transaction,
    /// A server connection is a client's until it disconnects.
    Session,
    /// A server connection is a client's for one statement.
    Statement,
}
