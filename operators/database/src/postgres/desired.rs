//! The desired state of one database.

use std::collections::{BTreeMap, BTreeSet};

use super::names::Names;
use super::ownership::{Cluster, Ownership, State};

/// A database in use, with its roles and privileges.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Desired {
    /// Names of the database and its roles.
    pub names: Names,
    /// The Database that it belongs to.
    pub identity: Identity,
    /// Whether it has existed before, so that its absence means lost data.
    pub provisioned: bool,
    /// SCRAM verifier of the login in use.
    pub verifier: String,
    /// State of the other login.
    pub other: OtherLogin,
    /// Maximum number of concurrent connections.
    pub connection_limit: i32,
    /// Parameters of the login in this database.
    pub parameters: BTreeMap<String, String>,
    /// Maximum size of the temporary files of a session, in kilobytes.
    pub temporary_kilobytes: i64,
    /// Extensions to create.
    pub extensions: BTreeSet<String>,
    /// What the logins may do.
    pub access: Access,
}

/// What the logins of a database may do; it depends on how much of the storage is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Everything that an owner may do.
    Write,
    /// Read, and reduce the size of the database.
    Shrink,
    /// Nothing: the logins are closed.
    Closed,
}

/// The login that is not published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OtherLogin {
    /// It may not log in.
    Closed,
    /// It was published before the last rotation and may still be used; its password does not change.
    Former,
}

/// Which object a database belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// [`Cluster::id`].
    pub cluster: String,
    /// [`Cluster::object`].
    pub object: String,
    /// The uid of the Database.
    pub uid: String,
    /// Its namespace, for the administrators' table.
    pub namespace: String,
    /// Its name, for the same table.
    pub name: String,
}

impl Identity {
    /// Of an object of this cluster, which may have been deleted.
    pub fn new(cluster: &Cluster, namespace: String, name: String, uid: String) -> Self {
        Identity { cluster: cluster.id.clone(), object: cluster.object(&namespace, &name), uid, namespace, name }
    }

    /// From an ownership marker and the administrators' table.
    pub fn from_ownership(ownership: &Ownership, (namespace, name): (String, String)) -> Self {
        let Ownership { cluster, object, uid, .. } = ownership.clone();
        Identity { cluster, object, uid, namespace, name }
    }

    /// The ownership marker.
    pub fn ownership(&self, state: State) -> Ownership {
        Ownership {
            cluster: self.cluster.clone(),
            object: self.object.clone(),
            uid: self.uid.clone(),
            state,
            extensions: None,
            frozen: false,
            full: false,
        }
    }
}
