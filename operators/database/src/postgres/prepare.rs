//! What a server needs once: closed maintenance databases, the group of all customers' logins, and the
//! pooler's logins with the one function they may call. Compared on every sweep, changed only where it differs.

use std::collections::BTreeMap;

use ahoi_api::{Passwords, PoolerLogin};
use ahoi_reconcile::Error;
use ahoi_reconcile::conditions::{ConditionStatus, DesiredCondition};
use postgres_protocol::escape::{escape_identifier as id, escape_literal as literal};
use serde::Deserialize;

use super::names::TENANTS;
use super::read_only;
use super::scram;
use super::server::{Failure, ServerPool};
use crate::server::disk;

/// The type of the condition about databases that everybody may connect to.
const CLOSED: &str = "DefaultDatabasesClosed";
/// The oldest PostgreSQL that is served.
const OLDEST: i32 = 140_000;

/// What the pooler runs for each client that logs in. Only customers' logins are found, and of those only such as could
/// log in without the pooler, too: neither a superuser's nor an expired one's verifier leaves the server.
const LOOKUP: &str = "
SELECT rolname::text, CASE WHEN rolvaliduntil < now() THEN NULL ELSE rolpassword END
FROM pg_catalog.pg_authid
WHERE rolname = login AND rolcanlogin AND NOT rolsuper AND NOT rolreplication AND NOT rolbypassrls
AND pg_has_role(oid, 'ahoi_tenants', 'MEMBER')
";
/// Connections of this controller on a server, at most.
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

/// Password verifiers are a question of their own: a role that may not read them must be told so by name.
const VERIFIERS: &str =
    "SELECT coalesce(json_object_agg(rolname, coalesce(rolpassword, '')), '{}')::text FROM pg_authid
    WHERE rolname = ANY($1) AND $2::text[] IS NULL";

/// What there is on a server apart from customers' databases.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Facts {
    /// `server_version_num`.
    pub version: i32,
    /// As people say it: 17.6.
    pub version_text: String,
    /// Connections the server has for ordinary logins.
    connections: i64,
    admin_database: String,
    admin: String,
    standby: bool,
    read_only: bool,
    temp_file_limit: String,
    reads_passwords: bool,
    superuser: bool,
    creates: bool,
    /// Of the databases in `connect`, those that the admin role may close.
    owned: Vec<String>,
    roles: BTreeMap<String, RoleFacts>,
    table: bool,
    /// Who may use the schema; none if there is none. An empty name is PUBLIC, here and below.
    schema: Option<Vec<String>>,
    function: Option<FunctionFacts>,
    /// Who may connect, by database.
    connect: BTreeMap<String, Vec<String>>,
    /// The verifiers of the pooler's logins.
    #[serde(skip)]
    verifiers: BTreeMap<String, String>,
}

impl Facts {
    /// Connections the server has beside those of this controller.
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

/// The pooler's logins on one server.
#[derive(Clone, Debug)]
pub struct Poolers {
    /// The one that is in use, or is to be.
    pub login: PoolerLogin,
    /// The other one.
    pub other: String,
    /// Whether the other one is still in use.
    pub other_is_open: bool,
    /// The comment that says whose both are.
    pub mark: String,
}

/// Looks at the server; `poolers` are the names of the pooler's logins.
pub async fn examine(server: &ServerPool, poolers: &[String; 2]) -> Result<Facts, Error> {
    let lost = |failure: Failure| failure.into_error(&server.name);
    let [a, b] = poolers.clone();
    let roles = [TENANTS.to_owned(), a, b];
    let databases = ["postgres".to_owned(), "template1".to_owned()];
    let json = server.text(FACTS, [Some(&roles), Some(&databases)]).await.map_err(lost)?;
    let mut facts: Facts = serde_json::from_str(&json).map_err(anyhow::Error::from)?;
    check(&server.name, &facts)?;
    if facts.passwords() == Passwords::File {
        return Ok(facts);
    }
    let verifiers = server.text(VERIFIERS, [Some(&roles[1..]), None]).await.map_err(lost)?;
    facts.verifiers = serde_json::from_str(&verifiers).map_err(anyhow::Error::from)?;
    Ok(facts)
}

impl Facts {
    /// How the poolers come by passwords.
    pub fn passwords(&self) -> Passwords {
        if self.reads_passwords { Passwords::Lookup } else { Passwords::File }
    }

    /// Whether temporary files are bounded, where the admin role may bound those of logins or may not.
    pub fn temporary_files(&self, admin_limits: bool) -> DesiredCondition {
        disk::temporary_condition(admin_limits, &self.temp_file_limit, &self.admin)
    }

    /// Whether everybody may connect to databases that are nobody's in particular.
    pub fn maintenance_databases(&self) -> DesiredCondition {
        let is_open = |(_, grantees): &(&String, &Vec<String>)| grantees.iter().any(String::is_empty);
        let open: Vec<_> = self.connect.iter().filter(is_open).map(|(database, _)| id(database)).collect();
        if open.is_empty() {
            let message = "logins of customers may connect to their own databases only";
            return DesiredCondition::new(CLOSED, ConditionStatus::True, "Closed", message);
        }
        let message = format!(
            "every login may connect to databases that the admin role does not own; have their owner GRANT CONNECT on them to \
             the platform's own roles that need it, and then REVOKE CONNECT ON DATABASE {} FROM PUBLIC",
            open.join(", ")
        );
        DesiredCondition::new(CLOSED, ConditionStatus::False, "OpenToPublic", message)
    }
}

/// Makes the server what it has to be where nobody looks passwords up.
pub async fn prepare_without_pooler(server: &ServerPool, facts: Facts, poolers: &[String; 2]) -> Result<Facts, Error> {
    let steps = plan_without_pooler(&facts);
    if steps.is_empty() {
        return Ok(facts);
    }
    server.run(&steps.join(";\n")).await.map_err(|failure| failure.into_error(&server.name))?;
    examine(server, poolers).await
}

/// Makes the server what it has to be.
pub async fn prepare(server: &ServerPool, facts: Facts, poolers: &Poolers) -> Result<Facts, Error> {
    let login = &poolers.login;
    let is_right = |verifier: &String| scram::matches(&login.password, verifier);
    let steps = plan(&facts, poolers, facts.verifiers.get(&login.name).is_some_and(is_right));
    if steps.is_empty() {
        return Ok(facts);
    }
    server.run(&steps.join(";\n")).await.map_err(|failure| failure.into_error(&server.name))?;
    let facts = examine(server, &[login.name.clone(), poolers.other.clone()]).await?;
    // REVOKE by somebody who may not is no error to PostgreSQL, only a warning.
    match plan(&facts, poolers, true).first() {
        None => Ok(facts),
        Some(step) => Err(Error::structural(
            "CannotPrepare",
            format!("the admin role on DatabaseServer {} may not do this: {step}", server.name),
        )),
    }
}

fn check(server: &str, facts: &Facts) -> Result<(), Error> {
    if facts.standby || facts.read_only {
        return Err(read_only::of_server(server, facts.standby));
    }
    if facts.version < OLDEST {
        let version = &facts.version_text;
        return Err(Error::structural(
            "VersionTooOld",
            format!("DatabaseServer {server} runs PostgreSQL {version}; 14 is the oldest that is served"),
        ));
    }
    // Before 16, CREATEROLE is not enough to act in the name of a role that it has made.
    if !(facts.superuser || facts.creates && facts.version >= 160_000) {
        return Err(Error::structural(
            "PrivilegeMissing",
            format!(
                "the admin role on DatabaseServer {server} must be a superuser or, from PostgreSQL 16 on, have CREATEDB \
                 and CREATEROLE"
            ),
        ));
    }
    if facts.passwords() == Passwords::File && !facts.owned.contains(&facts.admin_database) {
        return Err(Error::structural(
            "AdminDatabaseNotOwned",
            format!(
                "the admin role on DatabaseServer {server} does not own the database {}, in which it keeps its list; make a \
                 database that it owns and name it in spec.adminDatabase",
                facts.admin_database
            ),
        ));
    }
    Ok(())
}

/// The statements that differ from nothing. Pure.
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
    // What the other one may do it keeps: it may look up what this one may, when its turn comes again.
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
        if facts.roles.get(name).and_then(|role| role.comment.as_ref()) != Some(&poolers.mark) {
            steps.push(format!("COMMENT ON ROLE {} IS {}", id(name), literal(&poolers.mark)));
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

/// The same for a server on which nobody looks passwords up: its list, and what can be closed. Pure.
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

/// For the platform team: which database is whose. Comments, which everybody may read, do not say it.
const TABLE: &str = "CREATE TABLE ahoi.databases (database text PRIMARY KEY, namespace text NOT NULL, name text NOT NULL, \
                     uid text NOT NULL, state text NOT NULL, since timestamptz NOT NULL DEFAULT now())";

#[cfg(test)]
mod tests {
    use super::*;

    fn poolers() -> Poolers {
        let [name, other] = crate::server::pooler_names("3F2504e0-4f89-41d3-9a0c-0305e82c3301");
        Poolers {
            login: PoolerLogin { name, password: "secret".into() },
            other,
            other_is_open: false,
            mark: "ours".into(),
        }
    }

    fn fresh() -> Facts {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        Facts {
            version: 170_006,
            version_text: "17.6".into(),
            admin_database: "postgres".into(),
            reads_passwords: true,
            connections: 497,
            superuser: true,
            owned: names(&["postgres", "template1"]),
            connect: [
                ("postgres".to_owned(), names(&["", "postgres"])),
                ("template1".to_owned(), names(&["", "postgres"])),
            ]
            .into(),
            ..Facts::default()
        }
    }

    fn prepared() -> Facts {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let login = poolers().login.name;
        let role = |login| RoleFacts { login, powers: false, comment: Some("ours".into()) };
        Facts {
            roles: [(TENANTS.to_owned(), role(false)), (login.clone(), role(true))].into(),
            table: true,
            schema: Some(names(&["postgres", &login])),
            function: Some(FunctionFacts {
                source: LOOKUP.into(),
                definer: true,
                settings: names(&[LOOKUP_PATH]),
                callers: names(&["postgres", &login]),
            }),
            connect: [
                ("postgres".to_owned(), names(&["postgres", &login])),
                ("template1".to_owned(), names(&["postgres"])),
            ]
            .into(),
            ..fresh()
        }
    }

    #[test]
    fn a_fresh_server() {
        let steps = plan(&fresh(), &poolers(), false).join("\n");
        assert!(!steps.contains("'secret'"));
        let at = steps.find("SCRAM").unwrap();
        let end = at + steps[at..].find('\'').unwrap();
        insta::assert_snapshot!(steps.replace(&steps[at..end], "SCRAM…"));
    }

    #[test]
    fn a_prepared_server_needs_nothing() {
        assert_eq!(plan(&prepared(), &poolers(), true), Vec::<String>::new());
    }

    #[test]
    fn the_former_login_is_open_until_it_is_used_no_more() {
        let mut poolers = poolers();
        let mut facts = prepared();
        facts
            .roles
            .insert(poolers.other.clone(), RoleFacts { login: true, powers: false, comment: Some("ours".into()) });
        assert_eq!(plan(&facts, &poolers, true), ["ALTER ROLE \"ahoi_pooler_3f2504e0_b\" NOLOGIN"]);
        poolers.other_is_open = true;
        assert_eq!(plan(&facts, &poolers, true), Vec::<String>::new());
    }

    #[test]
    fn what_was_opened_is_closed_again() {
        let mut facts = prepared();
        facts.connect.insert("template1".into(), vec![String::new()]);
        facts.function.iter_mut().for_each(|function| function.callers.push(String::new()));
        facts.schema.iter_mut().for_each(|grantees| grantees.push(String::new()));
        facts.roles.insert(TENANTS.into(), RoleFacts { login: true, powers: false, comment: Some("ours".into()) });
        assert_eq!(
            plan(&facts, &poolers(), true),
            [
                "ALTER ROLE ahoi_tenants NOLOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS",
                "REVOKE ALL ON SCHEMA ahoi FROM PUBLIC",
                "REVOKE ALL ON FUNCTION ahoi.pooler_lookup(text) FROM PUBLIC",
                "REVOKE CONNECT ON DATABASE \"template1\" FROM PUBLIC",
            ]
        );
    }

    #[test]
    fn another_function_in_its_place_is_replaced() {
        let mut facts = prepared();
        facts.function.iter_mut().for_each(|function| function.source = "SELECT 1".into());
        let steps = plan(&facts, &poolers(), true);
        assert_eq!(steps.len(), 1);
        assert!(steps[0].starts_with("CREATE OR REPLACE FUNCTION ahoi.pooler_lookup"));
    }

    #[test]
    fn the_connections_of_this_controller_are_nobody_elses() {
        assert_eq!(fresh().connections(), 493);
        assert_eq!(Facts { connections: 3, ..fresh() }.connections(), 0);
    }

    #[test]
    fn what_a_server_must_allow() {
        let reason = |facts: Facts| check("pg-1", &facts).unwrap_err().reason().to_owned();
        assert!(check("pg-1", &fresh()).is_ok());
        assert_eq!(reason(Facts { version: 130_020, ..fresh() }), "VersionTooOld");
        let ordinary =
            |creates, version| Facts { superuser: false, reads_passwords: false, creates, version, ..fresh() };
        assert_eq!(reason(ordinary(false, 170_006)), "PrivilegeMissing");
        assert_eq!(reason(ordinary(true, 150_018)), "PrivilegeMissing");
        assert!(check("pg-1", &ordinary(true, 170_006)).is_ok());
        let strange = Facts { admin_database: "app".into(), ..ordinary(true, 170_006) };
        assert_eq!(reason(strange), "AdminDatabaseNotOwned");
    }

    #[test]
    fn an_ordinary_role_prepares_what_it_owns_and_says_what_it_cannot_close() {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let mut facts = Facts { superuser: false, reads_passwords: false, owned: names(&["ahoi"]), ..fresh() };
        facts.admin_database = "ahoi".into();
        facts.connect.insert("ahoi".into(), names(&["", "ahoi"]));
        assert_eq!(facts.passwords(), Passwords::File);
        let steps = plan_without_pooler(&facts);
        assert_eq!(steps[0], "CREATE SCHEMA ahoi");
        assert_eq!(steps[2..], ["REVOKE CONNECT ON DATABASE \"ahoi\" FROM PUBLIC"]);

        facts.schema = Some(names(&["ahoi"]));
        facts.table = true;
        facts.connect.insert("ahoi".into(), names(&["ahoi"]));
        assert_eq!(plan_without_pooler(&facts), Vec::<String>::new());
        let open = facts.maintenance_databases();
        assert_eq!((open.status, open.reason.as_str()), (ConditionStatus::False, "OpenToPublic"));
        insta::assert_snapshot!(open.message, @r#"every login may connect to databases that the admin role does not own; have their owner GRANT CONNECT on them to the platform's own roles that need it, and then REVOKE CONNECT ON DATABASE "postgres", "template1" FROM PUBLIC"#);
        assert_eq!(prepared().maintenance_databases().status, ConditionStatus::True);
    }
}
