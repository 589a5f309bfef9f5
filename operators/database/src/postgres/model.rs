//! Observed state of a server: the databases of Ahoi and their roles, from the catalogs.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use super::ownership::Ownership;

/// `CONNECTION LIMIT` of a database whose DROP was interrupted; only another DROP works on it
/// (<https://www.postgresql.org/docs/17/catalog-pg-database.html>).
pub const INVALID: i32 = -2;

/// Databases and roles of a server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Observed {
    /// `server_version_num`, such as 170006.
    pub version: i32,
    /// The admin role, which the controller is connected as.
    pub operator: String,
    /// Whether the admin role may not read verifiers. Fingerprints that it wrote take their place.
    #[serde(skip)]
    pub hidden: bool,
    /// Whether the admin role may limit the temporary files of a login: as a superuser, or by
    /// `GRANT SET ON PARAMETER temp_file_limit`.
    #[serde(default)]
    pub limits_temporary_files: bool,
    /// By name.
    pub databases: BTreeMap<String, DatabaseState>,
    /// By name.
    pub roles: BTreeMap<String, RoleState>,
}

/// A database.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct DatabaseState {
    /// The role that owns it.
    pub owner: String,
    /// `ALLOW_CONNECTIONS`.
    pub open: bool,
    /// `CONNECTION LIMIT`; -1 for none, [`INVALID`] after an interrupted DROP.
    pub limit: i32,
    /// `COMMENT ON DATABASE`.
    pub comment: Option<String>,
    /// The privileges of all roles but the owner.
    pub grants: BTreeSet<Grant>,
    /// Extensions that were created in it and do not exist any more.
    #[serde(skip)]
    pub lost_extensions: BTreeSet<String>,
}

impl DatabaseState {
    /// The ownership marker, if it has one.
    pub fn ownership(&self) -> Option<Ownership> {
        self.comment.as_deref().and_then(Ownership::parse)
    }
}

/// A privilege on a database.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub struct Grant {
    /// The role; empty for PUBLIC.
    pub grantee: String,
    /// CONNECT, CREATE or TEMPORARY.
    pub privilege: String,
    /// WITH GRANT OPTION.
    #[serde(default)]
    pub grantable: bool,
}

impl Grant {
    /// A privilege without grant option.
    pub fn new(grantee: &str, privilege: &str) -> Self {
        Grant { grantee: grantee.to_owned(), privilege: privilege.to_owned(), grantable: false }
    }
}

/// A role.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct RoleState {
    /// LOGIN.
    pub login: bool,
    /// Any of SUPERUSER, CREATEDB, CREATEROLE, REPLICATION and BYPASSRLS.
    pub powers: bool,
    /// `CONNECTION LIMIT`.
    pub limit: i32,
    /// Whether there is a `VALID UNTIL`.
    pub expires: bool,
    /// `pg_authid.rolpassword`, or the fingerprint of the verifier that was last set.
    pub verifier: Option<String>,
    /// The roles that it is a member of.
    pub member_of: BTreeMap<String, Membership>,
    /// Settings by `ALTER ROLE … IN DATABASE … SET`, as `name=value`, by database.
    pub settings: BTreeMap<String, BTreeSet<String>>,
    /// Settings by `ALTER ROLE … SET` for all databases, as `name=value`. Read only for a single database.
    #[serde(default)]
    pub own_settings: BTreeSet<String>,
}

/// Options of a membership. Before PostgreSQL 16, INHERIT and SET are always true.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub struct Membership {
    /// May grant the membership to others.
    pub admin: bool,
    /// Has the privileges of the role without SET ROLE.
    pub inherit: bool,
    /// May SET ROLE.
    pub set: bool,
}
