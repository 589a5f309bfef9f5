//! Preparation of a server: closed maintenance databases, the group of all customers' logins, and the poolers' logins with the
//! one function that they may call. Compared in each sweep, changed only where it differs.

use std::collections::BTreeMap;

use ahoi_api::{Passwords, PoolerLogin, Reason};
use ahoi_reconcile::Error;
use postgres_protocol::escape::{escape_identifier as id, escape_literal as literal};
use serde::Deserialize;

use super::failure::{Failure, read_only};
use super::names::TENANTS;
use super::scram;
use super::server::Postgres;

/// The oldest supported version of PostgreSQL.
const OLDEST: i32 = 140_000;

/// The query that a pooler runs for each client that logs in. It finds only customers' logins that could log in without the pooler
/// as well: the verifier of a superuser or of an expired role never leaves the server.
const LOOKUP: &str = "
SELECT rolname::text, CASE WHEN rolvaliduntil < now() THEN NULL ELSE rolpassword END
FROM pg_catalog.pg_authid
WHERE rolname = login AND rolcanlogin AND NOT rolsuper AND NOT rolreplication AND NOT rolbypassrls
AND pg_has_role(oid, 'ahoi_tenants', 'MEMBER')
";
/// Maximum number of connections of this controller to a server.
const OUR_OWN: i64 = 4;
const LOOKUP_PATH: &str = "search_path=pg_catalog, pg_temp";

const FACTS: &str = r"
SELECT json_build_object(
  'version', current_setting('server_version_num')::int,
  'version_text', split_part(current_setting('server_version'), ' ', 1),
  'connections', current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
    - coalesce(current_setting('reserved_connections', true), '0')::int,
  'admin_database', current_database(),
  'admin', current_user,
  'standby', pg_is_in_recovery(),
  'read_only', current_setting('transaction_read_only')::bool,
  'temp_file_limit', current_setting('temp_file_limit'),
  'reads_passwords', has_table_privilege('pg_catalog.pg_authid', 'SELECT'),
  'superuser', current_setting('is_superuser')::bool,
  'creates', (SELECT rolcreatedb AND rolcreaterole FROM pg_roles WHERE rolname = current_user),
  'owned', (SELECT coalesce(json_agg(datname), '[]') FROM pg_database
    WHERE (datname = ANY($2) OR datname = current_database()) AND pg_has_role(datdba, 'USAGE')),
  'roles', coalesce((
    SELECT json_object_agg(rolname, json_build_object('login', rolcanlogin, 'comment', shobj_description(oid, 'pg_authid'),
      'powers', rolsuper OR rolcreatedb OR rolcreaterole OR rolreplication OR rolbypassrls))
    FROM pg_roles WHERE rolname = ANY($1)), '{}'),
  'table', to_regclass('ahoi.databases') IS NOT NULL,
  'schema', (SELECT json_agg(coalesce(g.rolname, ''))
    FROM pg_namespace n, aclexplode(coalesce(nspacl, acldefault('n', nspowner))) a LEFT JOIN pg_roles g ON g.oid = a.grantee
    WHERE nspname = 'ahoi' AND a.privilege_type = 'USAGE'),
  'function', (SELECT json_build_object('source', prosrc, 'definer', prosecdef, 'settings', coalesce(proconfig, '{}'),
      'callers', (SELECT json_agg(coalesce(g.rolname, ''))
        FROM aclexplode(coalesce(proacl, acldefault('f', proowner))) a LEFT JOIN pg_roles g ON g.oid = a.grantee))
    FROM pg_proc WHERE oid = to_regprocedure('ahoi.pooler_lookup(text)')),
  'connect', (SELECT json_object_agg(datname, (SELECT coalesce(json_agg(coalesce(g.rolname, '')), '[]')
      FROM aclexplode(coalesce(datacl, acldefault('d', datdba))) a LEFT JOIN pg_roles g ON g.oid = a.grantee
      WHERE a.privilege_type = 'CONNECT'))
    FROM pg_database WHERE datname = ANY($2) OR datname = current_database())
)::text";

/// Verifiers have a query of their own, so that PostgreSQL's error names pg_authid if the role may not read it.
const VERIFIERS: &str =
    "SELECT coalesce(json_object_agg(rolname, coalesce(rolpassword, '')), '{}')::text FROM pg_authid
    WHERE rolname = ANY($1) AND $2::text[] IS NULL";

/// State of a server apart from customers' databases.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Facts {
    /// `server_version_num`.
    pub version: i32,
    /// For people, such as 17.6.
    pub version_text: String,
    /// Connections for ordinary logins.
    connections: i64,
    admin_database: String,
    /// The admin role.
    pub admin: String,
    standby: bool,
    read_only: bool,
    /// The server's setting.
    pub temp_file_limit: String,
    reads_passwords: bool,
    superuser: bool,
    creates: bool,
    /// Databases in `connect` that the admin role may close.
    owned: Vec<String>,
    roles: BTreeMap<String, RoleFacts>,
    table: bool,
    /// Roles that may use the schema; none if it does not exist. An empty name is PUBLIC, here and below.
    schema: Option<Vec<String>>,
    function: Option<FunctionFacts>,
    /// Roles that may connect, by database.
    connect: BTreeMap<String, Vec<String>>,
    /// Verifiers of the poolers' logins.
    #[serde(skip)]
    verifiers: BTreeMap<String, String>,
}

impl Facts {
    /// Connections that remain for customers.
    pub fn connections(&self) -> i64 {
        (self.connections - OUR_OWN).max(0)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
struct RoleFacts {
    login: bool,
    powers: bool,
    comment: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
struct FunctionFacts {
    source: String,
    definer: bool,
    settings: Vec<String>,
    callers: Vec<String>,
}

/// The poolers' pair of logins on one server.
#[derive(Clone, Debug)]
pub struct Poolers {
    /// The login in use.
    pub login: PoolerLogin,
    /// The other login of the pair.
    pub other: String,
    /// Whether the other login stays open.
    pub other_is_open: bool,
    /// The comment on both: which DatabaseServer they belong to.
    pub owner: String,
}

/// Reads the state of the server. `poolers` are the names of the poolers' logins.
pub async fn examine(postgres: &Postgres, poolers: &[String; 2]) -> Result<Facts, Error> {
    let failed = |failure: Failure| failure.into_error(&postgres.name);
    let [a, b] = poolers.clone();
    let roles = [TENANTS.to_owned(), a, b];
    let databases = ["postgres".to_owned(), "template1".to_owned()];
    let json = postgres.text(FACTS, [Some(&roles), Some(&databases)]).await.map_err(failed)?;
    let mut facts: Facts = serde_json::from_str(&json).map_err(anyhow::Error::from)?;
    check(&postgres.name, &facts)?;
    if facts.passwords() == Passwords::File {
        return Ok(facts);
    }
    let verifiers = postgres.text(VERIFIERS, [Some(&roles[1..]), None]).await.map_err(failed)?;
    facts.verifiers = serde_json::from_str(&verifiers).map_err(anyhow::Error::from)?;
    Ok(facts)
}

impl Facts {
    /// How the poolers obtain passwords.
    pub fn passwords(&self) -> Passwords {
        if self.reads_passwords { Passwords::Lookup } else { Passwords::File }
    }

    /// Databases that every login may connect to, as quoted identifiers.
    pub fn open_databases(&self) -> Vec<String> {
        let is_open = |(_, grantees): &(&String, &Vec<String>)| grantees.iter().any(String::is_empty);
        self.connect.iter().filter(is_open).map(|(database, _)| id(database)).collect()
    }
}

/// Prepares a server on which poolers do not look up passwords.
pub async fn prepare_without_pooler(postgres: &Postgres, facts: Facts, poolers: &[String; 2]) -> Result<Facts, Error> {
    let steps = plan_without_pooler(&facts);
    if steps.is_empty() {
        return Ok(facts);
    }
    postgres.run(&steps.join(";\n")).await.map_err(|failure| failure.into_error(&postgres.name))?;
    examine(postgres, poolers).await
}

/// Prepares a server.
pub async fn prepare(postgres: &Postgres, facts: Facts, poolers: &Poolers) -> Result<Facts, Error> {
    let login = &poolers.login;
    let is_right = |verifier: &String| scram::matches(&login.password, verifier);
    let steps = plan(&facts, poolers, facts.verifiers.get(&login.name).is_some_and(is_right));
    if steps.is_empty() {
        return Ok(facts);
    }
    postgres.run(&steps.join(";\n")).await.map_err(|failure| failure.into_error(&postgres.name))?;
    let facts = examine(postgres, &[login.name.clone(), poolers.other.clone()]).await?;
    // PostgreSQL answers a REVOKE without the privilege with a warning only.
    match plan(&facts, poolers, true).first() {
        None => Ok(facts),
        Some(step) => Err(Error::structural(
            Reason::CannotPrepare,
            format!(
                "the admin role of DatabaseServer {} lacks the privilege for: {step}. Run it as a superuser",
                postgres.name
            ),
        )),
    }
}

fn check(server: &str, facts: &Facts) -> Result<(), Error> {
    if facts.standby || facts.read_only {
        return Err(read_only(server, facts.standby));
    }
    if facts.version < OLDEST {
        let version = &facts.version_text;
        return Err(Error::structural(
            Reason::VersionTooOld,
            format!("DatabaseServer {server} runs PostgreSQL {version}; upgrade it to version 14 or newer"),
        ));
    }
    // Before PostgreSQL 16, CREATEROLE is not enough to act on behalf of a role that was created with it.
    if !(facts.superuser || facts.creates && facts.version >= 160_000) {
        return Err(Error::structural(
            Reason::PrivilegeMissing,
            format!(
                "the admin role of DatabaseServer {server} must be a superuser or, from PostgreSQL 16 on, have CREATEDB \
                 and CREATEROLE"
            ),
        ));
    }
    if facts.passwords() == Passwords::File && !facts.owned.contains(&facts.admin_database) {
        return Err(Error::structural(
            Reason::AdminDatabaseNotOwned,
            format!(
                "the admin role of DatabaseServer {server} does not own the admin database {}. Create a database that it owns, and \
                 set spec.adminDatabase to its name",
                facts.admin_database
            ),
        ));
    }
    Ok(())
}

/// The statements that prepare the server. Pure.
fn plan(facts: &Facts, poolers: &Poolers, password_is_right: bool) -> Vec<String> {
    let mut steps = Vec::new();
    let public = |grantees: &[String]| grantees.iter().any(String::is_empty);
    let pooler = &poolers.login;
    let named = |grantees: &[String]| grantees.contains(&pooler.name);
    let login = id(&pooler.name);
    match facts.roles.get(TENANTS) {
        None => steps.push(format!("CREATE ROLE {TENANTS} NOLOGIN")),
        Some(role) if role.login || role.powers => steps.push(format!("ALTER ROLE {TENANTS} NOLOGIN {NO_POWERS}")),
        Some(_) => {}
    }
    // The other login keeps its privileges: it is the login in use again after the next rotation.
    if !poolers.other_is_open && facts.roles.get(&poolers.other).is_some_and(|role| role.login) {
        steps.push(format!("ALTER ROLE {} NOLOGIN", id(&poolers.other)));
    }
    let role = facts.roles.get(&pooler.name);
    if role.is_none() {
        steps.push(format!("CREATE ROLE {login} NOLOGIN"));
    }
    if role.is_some_and(|role| role.powers) {
        steps.push(format!("ALTER ROLE {login} {NO_POWERS}"));
    }
    let other = Some(&poolers.other).filter(|other| facts.roles.contains_key(*other));
    for name in [Some(&pooler.name), other].into_iter().flatten() {
        if facts.roles.get(name).and_then(|role| role.comment.as_ref()) != Some(&poolers.owner) {
            steps.push(format!("COMMENT ON ROLE {} IS {}", id(name), literal(&poolers.owner)));
        }
    }
    if !password_is_right || role.is_none_or(|role| !role.login) {
        let verifier = postgres_protocol::password::scram_sha_256(pooler.password.as_bytes());
        steps.push(format!("ALTER ROLE {login} LOGIN PASSWORD {}", literal(&verifier)));
    }
    let schema = facts.schema.as_deref();
    if schema.is_none() {
        steps.push("CREATE SCHEMA ahoi".to_owned());
    }
    if schema.is_some_and(public) {
        steps.push("REVOKE ALL ON SCHEMA ahoi FROM PUBLIC".to_owned());
    }
    if !schema.is_some_and(named) {
        steps.push(format!("GRANT USAGE ON SCHEMA ahoi TO {login}"));
    }
    if !facts.table {
        steps.push(TABLE.to_owned());
    }
    let function = facts.function.as_ref();
    let is_ours = |f: &FunctionFacts| f.definer && f.source == LOOKUP && f.settings == [LOOKUP_PATH];
    if !function.is_some_and(is_ours) {
        steps.push(format!(
            "CREATE OR REPLACE FUNCTION ahoi.pooler_lookup(login text) RETURNS TABLE (username text, password text) \
             LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS {}",
            literal(LOOKUP)
        ));
    }
    if function.is_none_or(|function| public(&function.callers)) {
        steps.push("REVOKE ALL ON FUNCTION ahoi.pooler_lookup(text) FROM PUBLIC".to_owned());
    }
    if !function.is_some_and(|function| named(&function.callers)) {
        steps.push(format!("GRANT EXECUTE ON FUNCTION ahoi.pooler_lookup(text) TO {login}"));
    }
    for (database, grantees) in &facts.connect {
        if public(grantees) {
            steps.push(format!("REVOKE CONNECT ON DATABASE {} FROM PUBLIC", id(database)));
        }
    }
    if !facts.connect.get(&facts.admin_database).is_some_and(|grantees| named(grantees)) {
        steps.push(format!("GRANT CONNECT ON DATABASE {} TO {login}", id(&facts.admin_database)));
    }
    steps
}

/// The statements for a server on which poolers do not look up passwords. Pure.
fn plan_without_pooler(facts: &Facts) -> Vec<String> {
    let public = |grantees: &[String]| grantees.iter().any(String::is_empty);
    let mut steps = Vec::new();
    if facts.schema.is_none() {
        steps.push("CREATE SCHEMA ahoi".to_owned());
    }
    if facts.schema.as_deref().is_some_and(public) {
        steps.push("REVOKE ALL ON SCHEMA ahoi FROM PUBLIC".to_owned());
    }
    if !facts.table {
        steps.push(TABLE.to_owned());
    }
    for (database, _) in facts.connect.iter().filter(|(database, who)| public(who) && facts.owned.contains(database)) {
        steps.push(format!("REVOKE CONNECT ON DATABASE {} FROM PUBLIC", id(database)));
    }
    steps
}

const NO_POWERS: &str = "NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS";

/// For administrators: the owner of each database. Comments, which every login may read, do not name it.
const TABLE: &str = "CREATE TABLE ahoi.databases (database text PRIMARY KEY, namespace text NOT NULL, name text NOT NULL, \
                     uid text NOT NULL, state text NOT NULL, since timestamptz NOT NULL DEFAULT now())";

#[cfg(test)]
mod tests;
