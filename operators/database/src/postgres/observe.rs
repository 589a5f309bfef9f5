//! Reads what there is from a server's catalogs, in one query, for one database or for all of ours.

use ahoi_reconcile::Error;
use jiff::Timestamp;

use super::model::Observed;
use super::names::Names;
use super::ownership::Stamp;
use super::server::{Failure, ServerPool};

/// What takes the place of pg_authid where it may not be read.
const ROLES: &str = "(SELECT oid, rolname, rolcanlogin, rolconnlimit, rolsuper, rolcreatedb, rolcreaterole, \
     rolreplication, rolbypassrls, rolvaliduntil, shobj_description(oid, 'pg_authid') AS rolpassword \
     FROM pg_roles) AS pg_authid";

/// Parameters: the databases and the roles to look for; NULL for all of ours.
///
/// Names and comments come from functions rather than joins: for lack of statistics on the shared catalogs, joins
/// of theirs become nested loops, and a server has thousands of databases.
const QUERY: &str = r#"
SELECT json_build_object(
  'version', current_setting('server_version_num')::int,
  'operator', current_user,
  'limits_temporary_files', current_setting('is_superuser')::bool,
  'databases', coalesce((
    SELECT json_object_agg(d.datname, json_build_object(
      'owner', pg_get_userbyid(d.datdba), 'open', d.datallowconn, 'limit', d.datconnlimit, 'comment', d.comment,
      'grants', coalesce((
        SELECT json_agg(json_build_object(
          'grantee', CASE a.grantee WHEN 0 THEN '' ELSE pg_get_userbyid(a.grantee) END,
          'privilege', a.privilege_type, 'grantable', a.is_grantable))
        FROM aclexplode(coalesce(d.datacl, acldefault('d', d.datdba))) a WHERE a.grantee <> d.datdba), '[]')))
    FROM (SELECT *, shobj_description(oid, 'pg_database') AS comment FROM pg_database) d
    WHERE CASE WHEN $1::text[] IS NULL THEN d.datname ~ '^c_[0-9a-f]{12}$' OR d.comment LIKE '{"ahoi":%'
      ELSE d.datname = ANY($1) END), '{}'),
  'roles', coalesce((
    SELECT json_object_agg(r.rolname, json_build_object(
      'login', r.rolcanlogin, 'limit', r.rolconnlimit, 'verifier', r.rolpassword,
      'powers', r.rolsuper OR r.rolcreatedb OR r.rolcreaterole OR r.rolreplication OR r.rolbypassrls,
      'expires', coalesce(r.rolvaliduntil <> 'infinity', false),
      'member_of', coalesce(m.groups, '{}'),
      'own_settings', coalesce((
        SELECT to_json(s.setconfig) FROM pg_db_role_setting s
        WHERE $2::text[] IS NOT NULL AND s.setdatabase = 0 AND s.setrole = r.oid), '[]'),
      'settings', coalesce((
        SELECT json_object_agg(d.datname, s.setconfig)
        FROM pg_database d JOIN pg_db_role_setting s ON s.setdatabase = d.oid AND s.setrole = r.oid
        WHERE d.datname = regexp_replace(r.rolname, '_[a-z]+$', '')), '{}')))
    FROM (SELECT * FROM pg_authid WHERE CASE WHEN $2::text[] IS NULL
      THEN rolname ~ '^c_[0-9a-f]{12}_(owner|a|b|frozen)$' ELSE rolname = ANY($2) END) r
    LEFT JOIN (
      SELECT member, json_object_agg(pg_get_userbyid(roleid), json_build_object(
        'admin', admin, 'inherit', inherits, 'set', sets)) AS groups
      FROM (
        SELECT m.member, m.roleid, bool_or(m.admin_option) AS admin,
          bool_or(coalesce((to_jsonb(m) ->> 'inherit_option')::bool, true)) AS inherits,
          bool_or(coalesce((to_jsonb(m) ->> 'set_option')::bool, true)) AS sets
        FROM pg_auth_members m
        WHERE $2::text[] IS NULL OR pg_get_userbyid(m.member) = ANY($2)
        GROUP BY m.member, m.roleid) m
      GROUP BY member) m ON m.member = r.oid), '{}')
)::text"#;

/// Stamped databases whose comment has a text in it.
const STAMPED: &str = "SELECT d.datname::text, c.description FROM pg_database d \
     JOIN pg_shdescription c ON c.objoid = d.oid AND c.classoid = 'pg_database'::regclass \
     WHERE strpos(c.description, $1) > 0 ORDER BY d.datname DESC";

/// A database and its roles.
pub async fn one(server: &ServerPool, names: &Names) -> Result<Observed, Error> {
    let databases = [names.database.clone()];
    let roles = [names.owner.clone(), names.login.clone(), names.other.clone(), names.frozen.clone()];
    read(server, [Some(&databases), Some(&roles)]).await
}

/// The verifier that a login has on the server; nothing where the server does not show it.
pub async fn verifier(server: &ServerPool, names: &Names, login: &str) -> Result<Option<String>, Error> {
    let observed = one(server, names).await?;
    Ok(observed.roles.get(login).and_then(|role| role.verifier.clone()))
}

/// All databases and roles of ours.
pub async fn all(server: &ServerPool) -> Result<Observed, Error> {
    read(server, [None, None]).await
}

async fn read(server: &ServerPool, names: [Option<&[String]>; 2]) -> Result<Observed, Error> {
    let hidden = server.hides_passwords();
    let query = if hidden { as_ordinary_role(QUERY) } else { QUERY.to_owned() };
    let json = server.text(&query, names).await.map_err(|failure| failure.into_error(&server.name))?;
    let mut observed: Observed = serde_json::from_str(&json).map_err(anyhow::Error::from)?;
    observed.hidden = hidden;
    // What is written down about these is no longer so.
    let memory = server.memory.lock();
    for login in &memory.wrong_passwords {
        observed.roles.get_mut(login).into_iter().for_each(|role| role.verifier = None);
    }
    for (database, lost) in &memory.lost_extensions {
        observed.databases.get_mut(database).into_iter().for_each(|state| state.lost_extensions.clone_from(lost));
    }
    Ok(observed)
}

/// The query for a role that may not read pg_authid. Such a role is served from PostgreSQL 16 on, which can be asked what it
/// may set.
fn as_ordinary_role(query: &str) -> String {
    let may_set = "has_parameter_privilege('temp_file_limit', 'SET')";
    query.replace("pg_authid", ROLES).replace("current_setting('is_superuser')::bool", may_set)
}

/// The database that an object of the same name left here when it was deleted, closed or not.
pub async fn retained(server: &ServerPool, cluster: &str, object: &str) -> Result<Option<Names>, Failure> {
    let found = server.pairs(STAMPED, object).await?;
    let is_it = |comment: &str| {
        Stamp::parse(comment)
            .is_some_and(|stamp| stamp.cluster == cluster && stamp.object == object && stamp.state.can_be_adopted())
    };
    Ok(found.iter().find(|(_, comment)| is_it(comment)).map(|(database, _)| Names::of(database)))
}

/// Stamped databases of an object of this namespace and name, whatever the cluster, from the platform team's own list.
const OF_NAME: &str = "SELECT d.datname::text, c.description FROM ahoi.databases l JOIN pg_database d ON d.datname = l.database \
     JOIN pg_shdescription c ON c.objoid = d.oid AND c.classoid = 'pg_database'::regclass \
     WHERE l.namespace || '/' || l.name = $1 ORDER BY l.since DESC";

/// The databases that objects of this namespace and name have or had here, whatever the cluster. That of another cluster cannot
/// be told by its stamp alone, which is a hash for that cluster only.
pub async fn of_name(server: &ServerPool, namespace: &str, name: &str) -> Result<Vec<(Names, Stamp)>, Failure> {
    let found = server.pairs(OF_NAME, &format!("{namespace}/{name}")).await?;
    Ok(found.iter().filter_map(|(database, comment)| Some((Names::of(database), Stamp::parse(comment)?))).collect())
}

/// Since when a database is what it is: retained, or in use.
pub async fn since(server: &ServerPool, names: &Names) -> Result<Option<Timestamp>, Error> {
    let sql = "SELECT to_char(since AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"'), state FROM ahoi.databases \
               WHERE database = $1";
    let found = server.pairs(sql, &names.database).await.map_err(|failure| failure.into_error(&server.name))?;
    Ok(found.first().and_then(|(since, _)| since.parse().ok()))
}

/// Namespace and name of the object that a database was made for, from the platform team's own list.
pub async fn owner_of(server: &ServerPool, names: &Names) -> Result<(String, String), Error> {
    let sql = "SELECT namespace, name FROM ahoi.databases WHERE database = $1";
    let found = server.pairs(sql, &names.database).await.map_err(|failure| failure.into_error(&server.name))?;
    Ok(found.into_iter().next().unwrap_or_default())
}
