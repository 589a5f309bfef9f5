//! What there is on a server: our databases and their roles, as its catalogs say.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use super::ownership::Stamp;

/// `CONNECTION LIMIT` of a database whose DROP was interrupted; nothing but another DROP works on it
/// (<https://www.postgresql.org/docs/17/catalog-pg-database.html>).
pub const INVALID: i32 = -2;

/// Databases and roles as found on a server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Observed {
    /// `server_version_num`, such as 170006.
    pub version: i32,
    /// The role the controller is connected as.
    pub operator: String,
    /// The server does not show verifiers to the controller: in their place are the fingerprints that it wrote down.
    #[serde(skip)]
    pub hidden: bool,
    /// Whether the controller may limit the temporary files of a login, which a superuser may, or whoever a superuser has
    /// let (`GRANT SET ON PARAMETER temp_file_limit`).
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
    /// The privileges of everybody but the owner.
    pub grants: BTreeSet<Grant>,
    /// Extensions that were made in it and that the last look did not find.
    #[serde(skip)]
    pub lost_extensions: BTreeSet<String>,
}

impl DatabaseState {
    /// Our stamp, if it has one.
    pub fn stamp(&self) -> Option<Stamp> {
        self.comment.as_deref().and_then(Stamp::parse)
    }
}

/// A privilege on a database.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub struct Grant {
    /// The role; empty for PUBLIC.
    pub grantee: String,
    /// CONNECT, CREATE or TEMPORARY.
    pub privilege: String,
    /// Whether the role may pass it on.
    #[serde(default)]
    pub grantable: bool,
}

impl Grant {
    /// A privilege that cannot be passed on.
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
    /// `pg_authid.rolpassword`, or the fingerprint of what it was last set to.
    pub verifier: Option<String>,
    /// The roles it is a member of.
    pub member_of: BTreeMap<String, Membership>,
    /// By database, what `ALTER ROLE … IN DATABASE … SET` has set, as `name=value`.
    pub settings: BTreeMap<String, BTreeSet<String>>,
    /// What `ALTER ROLE … SET` has set in every database, as `name=value`. Read where one database is looked at.
    #[serde(default)]
    pub own_settings: BTreeSet<String>,
}

/// How a role is a member of another. Before PostgreSQL 16 INHERIT and SET always hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub struct Membership {
    /// May make others members.
    pub admin: bool,
    /// Has the role's privileges without SET ROLE.
    pub inherit: bool,
    /// May SET ROLE.
    pub set: bool,
}
