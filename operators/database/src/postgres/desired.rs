//! What a Database should be on its server.

use std::collections::{BTreeMap, BTreeSet};

use ahoi_api::Database;
use ahoi_reconcile::Error;
use kube::ResourceExt;

use super::names::Names;
use super::ownership::{Cluster, Stamp, State};
use super::parameters;
use crate::quota::Level;

/// Connections a database accepts where its spec says nothing.
const CONNECTION_LIMIT: i32 = 100;

/// A database that is in use, down to the last privilege.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Desired {
    /// What it is called.
    pub names: Names,
    /// Whose it is.
    pub identity: Identity,
    /// Whether it has been there before, so that its absence means lost data and not work to do.
    pub provisioned: bool,
    /// What the login authenticates with.
    pub verifier: String,
    /// What the other login is to be.
    pub other: OtherLogin,
    /// Connections at once.
    pub connection_limit: i32,
    /// Parameters of the login in this database.
    pub parameters: BTreeMap<String, String>,
    /// Most kilobytes of temporary files that one session may have.
    pub temporary_kilobytes: i64,
    /// Extensions to make.
    pub extensions: BTreeSet<String>,
    /// What its logins may do.
    pub access: Access,
}

/// What the logins of a database may do, which depends on how much of its storage is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// All that an owner may.
    Write,
    /// Read, and what makes the database smaller.
    Shrink,
    /// Nothing: they cannot log in.
    Closed,
}

impl From<Level> for Access {
    fn from(level: Level) -> Self {
        match level {
            Level::Within | Level::Warning => Access::Write,
            Level::Exceeded => Access::Shrink,
            Level::Closed => Access::Closed,
        }
    }
}

/// The login that is not the one that is given away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OtherLogin {
    /// Nobody logs in as it.
    Closed,
    /// It was given away before and may be in use; its password stays as it is.
    Former,
}

/// Whose a database is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// [`Cluster::id`].
    pub cluster: String,
    /// [`Cluster::object`].
    pub object: String,
    /// The uid of the Database.
    pub uid: String,
    /// Its namespace, for the platform team's own list.
    pub namespace: String,
    /// Its name, for the same list.
    pub name: String,
}

impl Identity {
    /// Of this object in this cluster.
    pub fn of(database: &Database, cluster: &Cluster) -> Self {
        let uid = database.uid().unwrap_or_default();
        Identity::new(cluster, database.namespace().unwrap_or_default(), database.name_any(), uid)
    }

    /// Of an object of this cluster, which may be no more.
    pub fn new(cluster: &Cluster, namespace: String, name: String, uid: String) -> Self {
        Identity { cluster: cluster.id.clone(), object: cluster.object(&namespace, &name), uid, namespace, name }
    }

    /// As a stamp and the platform team's list tell, of an object that is no more.
    pub fn stamped(stamp: &Stamp, (namespace, name): (String, String)) -> Self {
        let Stamp { cluster, object, uid, .. } = stamp.clone();
        Identity { cluster, object, uid, namespace, name }
    }

    /// The stamp that says so.
    pub fn stamp(&self, state: State) -> Stamp {
        Stamp {
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

/// A quarter of the storage: enough to sort the largest table's index. No less than what an ordinary query may need.
fn temporary_kilobytes(storage: i64) -> i64 {
    const LEAST: i64 = 64 * 1024;
    (storage / 4 / 1024).clamp(LEAST, i64::from(i32::MAX))
}

impl Desired {
    /// What the spec says, for a database whose name has been chosen. Refuses what no server should be asked for.
    pub fn of(
        database: &Database,
        cluster: &Cluster,
        names: Names,
        verifier: &str,
        other: OtherLogin,
        access: Access,
    ) -> Result<Self, Error> {
        let spec = &database.spec;
        Ok(Desired {
            names,
            identity: Identity::of(database, cluster),
            // A binding is only ever written when everything before it was there.
            provisioned: database.status.as_ref().is_some_and(|status| status.binding.is_some()),
            verifier: verifier.to_owned(),
            other,
            connection_limit: spec.connection_limit.unwrap_or(CONNECTION_LIMIT),
            parameters: parameters::check(&spec.parameters)?,
            temporary_kilobytes: temporary_kilobytes(spec.storage.bytes().unwrap_or_default()),
            extensions: spec.extensions.iter().cloned().collect(),
            access,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn temporary_files_follow_the_storage() {
        assert_eq!(temporary_kilobytes(0), 64 * 1024);
        assert_eq!(temporary_kilobytes(8 << 30), 2 << 20);
        assert_eq!(temporary_kilobytes(i64::MAX), 2_147_483_647, "what PostgreSQL can store");
    }
}
