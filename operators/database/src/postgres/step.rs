//! The steps of a plan: each as SQL, and as a change of the model.

use postgres_protocol::escape::{escape_identifier as id, escape_literal as literal};

use super::freeze;
use super::lists;
use super::model::{DatabaseState, Grant, Membership, Observed, RoleState};
use super::names::Names;
use super::ownership::{Ownership, State};
use crate::postgres::scram::fingerprint;

/// First version with `GRANT … WITH INHERIT …, SET …`.
const MEMBERSHIP_OPTIONS: i32 = 160_000;
/// First version with `CREATE DATABASE … STRATEGY`.
const STRATEGY: i32 = 150_000;

/// One step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Creates a database that accepts no connections.
    CreateDatabase { database: String, limit: i32 },
    /// Drops a database.
    DropDatabase { database: String },
    /// Records which object the database belongs to: in its comment, and for administrators in `ahoi.databases`.
    Mark { database: String, ownership: Ownership, namespace: String, name: String },
    /// Makes the admin role the owner of the database again.
    Reown { database: String },
    /// Deletes the database from the administrators' table.
    Forget { database: String },
    /// Renames the database.
    Rename { from: String, to: String },
    /// `CONNECTION LIMIT`.
    Limit { database: String, limit: i32 },
    /// `ALLOW_CONNECTIONS`.
    Open { database: String },
    /// Ends sessions in the database: those of a login, or all.
    Terminate { database: String, login: Option<String> },
    /// Revokes all privileges. An empty grantee is PUBLIC.
    Revoke { database: String, grantee: String },
    /// Grants privileges.
    Grant { database: String, grantee: String, privileges: Vec<&'static str> },
    /// Creates a role without login and privileges.
    CreateRole { role: String },
    /// Removes every attribute with an effect outside of the role's own database.
    Disempower { role: String },
    /// Allows the role to log in, with this verifier.
    Login { role: String, verifier: String },
    /// Stores the fingerprint of the verifier, which cannot be read back. In one transaction with `Login`.
    Note { role: String, verifier: String },
    /// Allows the role to log in again with its present password.
    Reopen { role: String },
    /// Forbids the role to log in.
    NoLogin { role: String },
    /// Drops a role.
    DropRole { role: String },
    /// Grants a membership.
    Join { group: String, member: String, membership: Membership },
    /// Revokes a membership.
    Leave { group: String, member: String },
    /// Sets a parameter of a login in a database.
    Set { login: String, database: String, parameter: String, value: String },
    /// Resets a parameter of a login in a database.
    Reset { login: String, database: String, parameter: String },
    /// Sets a parameter of a login for all databases.
    SetEverywhere { login: String, parameter: String, value: String },
    /// Resets a parameter of a login for all databases.
    ResetEverywhere { login: String, parameter: String },
    /// Makes the owner role the owner of the schema public, and revokes the privileges of PUBLIC.
    PublicSchema { owner: String },
    /// Creates an extension as the owner role, so that PostgreSQL refuses those that it does not trust.
    Extension { extension: String, owner: String },
    /// Revokes the privileges to create objects.
    Seal { names: Names },
    /// Makes every table refuse writes.
    RefuseWrites { names: Names },
    /// Allows writes again.
    AllowWrites { names: Names },
    /// Drops the triggers that refused writes.
    Thaw,
}

/// Where a step runs, and in which transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// In the admin database, in one transaction with adjacent steps.
    Server,
    /// In the admin database, outside of any transaction.
    Alone,
    /// In the database itself, on one connection with adjacent steps.
    Inside,
}

/// What a step changes, for metrics and messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Topic {
    Database,
    Ownership,
    Privileges,
    ConnectionLimit,
    Role,
    Password,
    Membership,
    Parameters,
    Extensions,
    Contents,
    Sessions,
}

impl Topic {
    /// For messages, and as a label value.
    pub fn as_str(self) -> &'static str {
        match self {
            Topic::Database => "database",
            Topic::Ownership => "ownership marker",
            Topic::Privileges => "privileges",
            Topic::ConnectionLimit => "connection limit",
            Topic::Role => "role",
            Topic::Password => "login",
            Topic::Membership => "membership",
            Topic::Parameters => "parameters",
            Topic::Extensions => "extensions",
            Topic::Contents => "contents",
            Topic::Sessions => "sessions",
        }
    }
}

impl Step {
    /// Where it runs.
    pub fn scope(&self) -> Scope {
        match self {
            Step::CreateDatabase { .. } | Step::DropDatabase { .. } | Step::Terminate { .. } => Scope::Alone,
            Step::PublicSchema { .. }
            | Step::Extension { .. }
            | Step::Seal { .. }
            | Step::RefuseWrites { .. }
            | Step::AllowWrites { .. }
            | Step::Thaw => Scope::Inside,
            _ => Scope::Server,
        }
    }

    /// What it changes.
    pub fn topic(&self) -> Topic {
        match self {
            Step::CreateDatabase { .. }
            | Step::DropDatabase { .. }
            | Step::Rename { .. }
            | Step::Open { .. }
            | Step::Reown { .. } => Topic::Database,
            Step::Mark { .. } | Step::Forget { .. } => Topic::Ownership,
            Step::Limit { .. } => Topic::ConnectionLimit,
            Step::Terminate { .. } => Topic::Sessions,
            Step::Revoke { .. } | Step::Grant { .. } => Topic::Privileges,
            Step::CreateRole { .. } | Step::Disempower { .. } | Step::DropRole { .. } => Topic::Role,
            Step::Login { .. } | Step::Note { .. } | Step::Reopen { .. } | Step::NoLogin { .. } => Topic::Password,
            Step::Join { .. } | Step::Leave { .. } => Topic::Membership,
            Step::Set { .. } | Step::Reset { .. } | Step::SetEverywhere { .. } | Step::ResetEverywhere { .. } => {
                Topic::Parameters
            }
            Step::Extension { .. } => Topic::Extensions,
            Step::PublicSchema { .. }
            | Step::Seal { .. }
            | Step::RefuseWrites { .. }
            | Step::AllowWrites { .. }
            | Step::Thaw => Topic::Contents,
        }
    }

    /// The statements, for a server of this version.
    pub fn sql(&self, version: i32) -> String {
        match self {
            Step::CreateDatabase { database, limit } => {
                // Writes WAL instead of copying files, which would cost two checkpoints.
                let strategy = if version >= STRATEGY { " STRATEGY wal_log" } else { "" };
                let database = id(database);
                format!(
                    "CREATE DATABASE {database} TEMPLATE template0{strategy} ALLOW_CONNECTIONS false CONNECTION LIMIT {limit}"
                )
            }
            Step::DropDatabase { database } => format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", id(database)),
            Step::Mark { database, ownership, namespace, name } => mark_sql(database, ownership, namespace, name),
            Step::Reown { database } => format!("ALTER DATABASE {} OWNER TO CURRENT_USER", id(database)),
            Step::Forget { database } => format!("DELETE FROM ahoi.databases WHERE database = {}", literal(database)),
            Step::Rename { from, to } => format!(
                "ALTER DATABASE {} RENAME TO {};\nUPDATE ahoi.databases SET database = {} WHERE database = {}",
                id(from),
                id(to),
                literal(to),
                literal(from)
            ),
            Step::Limit { database, limit } => format!("ALTER DATABASE {} CONNECTION LIMIT {limit}", id(database)),
            Step::Open { database } => format!("ALTER DATABASE {} ALLOW_CONNECTIONS true", id(database)),
            Step::Terminate { database, login: None } => terminate(database, ""),
            Step::Terminate { database, login: Some(login) } => {
                terminate(database, &format!(" AND usename = {}", literal(login)))
            }
            Step::Revoke { database, grantee } => {
                let grantee = if grantee.is_empty() { "PUBLIC".to_owned() } else { id(grantee) };
                format!("REVOKE ALL ON DATABASE {} FROM {grantee} CASCADE", id(database))
            }
            Step::Grant { database, grantee, privileges } => {
                format!("GRANT {} ON DATABASE {} TO {}", privileges.join(", "), id(database), id(grantee))
            }
            Step::CreateRole { role } => format!("CREATE ROLE {} NOLOGIN", id(role)),
            Step::Disempower { role } => {
                // Only a superuser may use the other attributes, even to remove them.
                let role = id(role);
                let body = format!(
                    "BEGIN ALTER ROLE {role} NOCREATEDB NOCREATEROLE; IF current_setting('is_superuser')::bool THEN \
                     ALTER ROLE {role} NOSUPERUSER NOREPLICATION NOBYPASSRLS; END IF; END"
                );
                format!("DO {}", literal(&body))
            }
            Step::Login { role, verifier } => {
                let verifier = literal(verifier);
                format!("ALTER ROLE {} LOGIN PASSWORD {verifier} VALID UNTIL 'infinity' CONNECTION LIMIT -1", id(role))
            }
            Step::Note { role, verifier } => {
                format!("COMMENT ON ROLE {} IS {}", id(role), literal(&fingerprint(verifier)))
            }
            Step::Reopen { role } => {
                format!("ALTER ROLE {} LOGIN VALID UNTIL 'infinity' CONNECTION LIMIT -1", id(role))
            }
            Step::NoLogin { role } => format!("ALTER ROLE {} NOLOGIN", id(role)),
            Step::DropRole { role } => format!("DROP ROLE IF EXISTS {}", id(role)),
            Step::Join { group, member, membership: Membership { admin, inherit, set } } => {
                let options = if version >= MEMBERSHIP_OPTIONS {
                    let word = |is: &bool| if *is { "TRUE" } else { "FALSE" };
                    format!(" WITH ADMIN {}, INHERIT {}, SET {}", word(admin), word(inherit), word(set))
                } else if *admin {
                    " WITH ADMIN OPTION".to_owned()
                } else {
                    String::new()
                };
                format!("GRANT {} TO {}{options}", id(group), id(member))
            }
            Step::Leave { group, member } => format!("REVOKE {} FROM {} CASCADE", id(group), id(member)),
            Step::Set { login, database, parameter, value } => {
                let (login, database) = (id(login), id(database));
                let value = lists::sql(parameter, value);
                format!("ALTER ROLE {login} IN DATABASE {database} SET {} = {value}", id(parameter))
            }
            Step::Reset { login, database, parameter } => {
                format!("ALTER ROLE {} IN DATABASE {} RESET {}", id(login), id(database), dotted(parameter))
            }
            Step::SetEverywhere { login, parameter, value } => {
                format!("ALTER ROLE {} SET {} = {}", id(login), dotted(parameter), lists::sql(parameter, value))
            }
            Step::ResetEverywhere { login, parameter } => {
                format!("ALTER ROLE {} RESET {}", id(login), dotted(parameter))
            }
            Step::PublicSchema { owner } => {
                format!("ALTER SCHEMA public OWNER TO {};\nREVOKE ALL ON SCHEMA public FROM PUBLIC", id(owner))
            }
            Step::Extension { extension, owner } => {
                format!(
                    "SET ROLE {};\nSET search_path = public;\nCREATE EXTENSION IF NOT EXISTS {};\nRESET search_path;\nRESET ROLE",
                    id(owner),
                    id(extension)
                )
            }
            Step::Seal { names } => freeze::seal(names),
            Step::RefuseWrites { names } => freeze::refuse_writes(names),
            Step::AllowWrites { names } => freeze::allow_writes(names),
            Step::Thaw => freeze::thaw(),
        }
    }

    /// Applies the step to the model.
    pub fn apply(&self, observed: &mut Observed) {
        let operator = observed.operator.clone();
        match self {
            Step::CreateDatabase { database, limit } => {
                let grants = [Grant::new("", "CONNECT"), Grant::new("", "TEMPORARY")].into();
                let state = DatabaseState { owner: operator, limit: *limit, grants, ..DatabaseState::default() };
                observed.databases.insert(database.clone(), state);
            }
            Step::DropDatabase { database } => {
                observed.databases.remove(database);
                observed.roles.values_mut().for_each(|role| _ = role.settings.remove(database));
            }
            Step::Rename { from, to } => {
                if let Some(state) = observed.databases.remove(from) {
                    observed.databases.insert(to.clone(), state);
                }
                for role in observed.roles.values_mut() {
                    if let Some(settings) = role.settings.remove(from) {
                        role.settings.insert(to.clone(), settings);
                    }
                }
            }
            Step::CreateRole { role } => {
                observed.roles.insert(role.clone(), RoleState { limit: -1, ..RoleState::default() });
            }
            Step::DropRole { role } => _ = observed.roles.remove(role),
            Step::Mark { database, .. }
            | Step::Reown { database }
            | Step::Limit { database, .. }
            | Step::Open { database }
            | Step::Revoke { database, .. }
            | Step::Grant { database, .. } => {
                if let Some(state) = observed.databases.get_mut(database) {
                    self.apply_to_database(state, operator);
                }
            }
            Step::Disempower { role } | Step::Login { role, .. } | Step::Reopen { role } | Step::NoLogin { role } => {
                observed.roles.get_mut(role).into_iter().for_each(|role| self.apply_to_role(role));
            }
            Step::Join { member, .. } | Step::Leave { member, .. } => {
                observed.roles.get_mut(member).into_iter().for_each(|role| self.apply_to_role(role));
            }
            Step::Set { login, .. }
            | Step::Reset { login, .. }
            | Step::SetEverywhere { login, .. }
            | Step::ResetEverywhere { login, .. } => {
                observed.roles.get_mut(login).into_iter().for_each(|role| self.apply_to_role(role));
            }
            Step::Extension { extension, .. } => {
                observed.databases.values_mut().for_each(|state| _ = state.lost_extensions.remove(extension));
            }
            // The contents of a database are not observed; the ownership marker records them.
            Step::Forget { .. }
            | Step::Note { .. }
            | Step::Terminate { .. }
            | Step::PublicSchema { .. }
            | Step::Seal { .. }
            | Step::RefuseWrites { .. }
            | Step::AllowWrites { .. }
            | Step::Thaw => {}
        }
    }

    fn apply_to_database(&self, state: &mut DatabaseState, operator: String) {
        match self {
            Step::Mark { ownership, .. } => state.comment = Some(ownership.comment()),
            Step::Reown { .. } => state.owner = operator,
            Step::Limit { limit, .. } => state.limit = *limit,
            Step::Open { .. } => state.open = true,
            Step::Revoke { grantee, .. } => state.grants.retain(|grant| grant.grantee != *grantee),
            Step::Grant { grantee, privileges, .. } => {
                state.grants.extend(privileges.iter().map(|privilege| Grant::new(grantee, privilege)));
            }
            _ => {}
        }
    }

    fn apply_to_role(&self, state: &mut RoleState) {
        match self {
            Step::Disempower { .. } => state.powers = false,
            Step::Login { verifier, .. } => {
                *state = RoleState {
                    login: true,
                    verifier: Some(verifier.clone()),
                    expires: false,
                    limit: -1,
                    ..state.clone()
                };
            }
            Step::Reopen { .. } => {
                state.login = true;
                state.expires = false;
                state.limit = -1;
            }
            Step::NoLogin { .. } => state.login = false,
            Step::Join { group, membership, .. } => _ = state.member_of.insert(group.clone(), *membership),
            Step::Leave { group, .. } => _ = state.member_of.remove(group),
            Step::Set { database, parameter, value, .. } => {
                let settings = state.settings.entry(database.clone()).or_default();
                settings.retain(|setting| name_of(setting) != parameter);
                settings.insert(format!("{parameter}={value}"));
            }
            Step::Reset { database, parameter, .. } => {
                let settings = state.settings.entry(database.clone()).or_default();
                settings.retain(|setting| name_of(setting) != parameter);
            }
            Step::SetEverywhere { parameter, value, .. } => {
                state.own_settings.retain(|setting| name_of(setting) != parameter);
                state.own_settings.insert(format!("{parameter}={value}"));
            }
            Step::ResetEverywhere { parameter, .. } => {
                state.own_settings.retain(|setting| name_of(setting) != parameter);
            }
            _ => {}
        }
    }
}

/// The membership of a login: in the owner role, whose privileges it uses, or in a group, whose privileges it does not use.
pub fn membership(version: i32, uses: bool) -> Membership {
    let uses = uses || version < MEMBERSHIP_OPTIONS;
    Membership { admin: false, inherit: uses, set: uses }
}

/// The parameter in `name=value`.
pub fn name_of(setting: &str) -> &str {
    setting.split_once('=').map_or(setting, |(name, _)| name)
}

/// Quotes a parameter; that of an extension has a dot in its name.
fn dotted(parameter: &str) -> String {
    parameter.split('.').map(id).collect::<Vec<_>>().join(".")
}

/// Without a superuser, only sessions of roles that the admin role is a member of can be ended.
fn terminate(database: &str, and: &str) -> String {
    format!(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = {}{and} AND pid <> pg_backend_pid() \
         AND (current_setting('is_superuser')::bool OR pg_has_role(usesysid, 'USAGE'))",
        literal(database)
    )
}

fn mark_sql(database: &str, ownership: &Ownership, namespace: &str, name: &str) -> String {
    let state = match ownership.state {
        State::Active => "active",
        State::Retained => "retained",
        State::Archived => "archived",
        State::Deleting => "deleting",
    };
    let row = [database, namespace, name, &ownership.uid, state].map(literal).join(", ");
    format!(
        "COMMENT ON DATABASE {} IS {};\n\
         INSERT INTO ahoi.databases (database, namespace, name, uid, state) VALUES ({row}) \
         ON CONFLICT (database) DO UPDATE SET (namespace, name, uid, state, since) = \
         (EXCLUDED.namespace, EXCLUDED.name, EXCLUDED.uid, EXCLUDED.state, now())",
        id(database),
        literal(&ownership.comment())
    )
}
