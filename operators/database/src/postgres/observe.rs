//! Reads the catalogs of a server in one query, for one database or for all of ours.

use ahoi_reconcile::Error;
use jiff::Timestamp;

use super::failure::Failure;
use super::model::Observed;
use super::names::Names;
use super::ownership::Ownership;
use super::server::Postgres;

/// Replaces pg_authid for an admin role that may not read it.
const ROLES: &str = "(SELECT oid, rolname, rolcanlogin, rolconnlimit, rolsuper, rolcreatedb, rolcreaterole, \
     rolreplication, rolbypassrls, rolvaliduntil, shobj_description(oid, 'pg_authid') AS rolpassword \
     FROM pg_roles) AS pg_authid";

/// Parameters: names of databases and of roles; NULL for all of ours.
///
/// Names and comments come from functions instead of joins: the shared catalogs lack statistics, so PostgreSQL would join them
/// by nested loops, and a server has thousands of databases.
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

/// Databases whose comment is an ownership marker that contains a text.
const OWNERSHIP_MARKERS: &str = "SELECT d.datname::text, c.description FROM pg_database d \
     JOIN pg_shdescription c ON c.objoid = d.oid AND c.classoid = 'pg_database'::regclass \
     WHERE strpos(c.description, $1) > 0 ORDER BY d.datname DESC";

/// One database and its roles.
pub async fn one(postgres: &Postgres, names: &Names) -> Result<Observed, Error> {
    let databases = [names.database.clone()];
    let roles = [names.owner.clone(), names.login.clone(), names.other.clone(), names.frozen.clone()];
    read(postgres, [Some(&databases), Some(&roles)]).await
}

/// The verifier of a login; none if the server hides it.
pub async fn verifier(postgres: &Postgres, names: &Names, login: &str) -> Result<Option<String>, Error> {
    let observed = one(postgres, names).await?;
    Ok(observed.roles.get(login).and_then(|role| role.verifier.clone()))
}

/// All databases and roles of Ahoi.
pub async fn all(postgres: &Postgres) -> Result<Observed, Error> {
    read(postgres, [None, None]).await
}

async fn read(postgres: &Postgres, names: [Option<&[String]>; 2]) -> Result<Observed, Error> {
    let hidden = postgres.hides_passwords();
    let query = if hidden { as_ordinary_role(QUERY) } else { QUERY.to_owned() };
    let json = postgres.text(&query, names).await.map_err(|failure| failure.into_error(&postgres.name))?;
    let mut observed: Observed = serde_json::from_str(&json).map_err(anyhow::Error::from)?;
    observed.hidden = hidden;
    Ok(observed)
}

/// The query for an admin role that may not read pg_authid. Such a role needs PostgreSQL 16, which knows
/// `has_parameter_privilege`.
fn as_ordinary_role(query: &str) -> String {
    let may_set = "has_parameter_privilege('temp_file_limit', 'SET')";
    query.replace("pg_authid", ROLES).replace("current_setting('is_superuser')::bool", may_set)
}

/// The database that a deleted object of the same name left on this server, whether its logins are closed or not.
pub async fn retained(postgres: &Postgres, cluster: &str, object: &str) -> Result<Option<Names>, Failure> {
    let found = postgres.pairs(OWNERSHIP_MARKERS, object).await?;
    let is_it = |comment: &str| {
        Ownership::parse(comment).is_some_and(|ownership| {
            ownership.cluster == cluster && ownership.object == object && ownership.state.can_be_adopted()
        })
    };
    Ok(found.iter().find(|(_, comment)| is_it(comment)).map(|(database, _)| Names::of(database)))
}

/// Databases of objects of this namespace and name, in whichever cluster, from the administrators' table.
const OF_NAME: &str = "SELECT d.datname::text, c.description FROM ahoi.databases l JOIN pg_database d ON d.datname = l.database \
     JOIN pg_shdescription c ON c.objoid = d.oid AND c.classoid = 'pg_database'::regclass \
     WHERE l.namespace || '/' || l.name = $1 ORDER BY l.since DESC";

/// The databases that objects of this namespace and name have or had on this server, in whichever cluster. The ownership marker
/// of another cluster is a hash that only that cluster can compute, so the administrators' table is read instead.
pub async fn of_name(postgres: &Postgres, namespace: &str, name: &str) -> Result<Vec<(Names, Ownership)>, Failure> {
    let found = postgres.pairs(OF_NAME, &format!("{namespace}/{name}")).await?;
    Ok(found.iter().filter_map(|(database, comment)| Some((Names::of(database), Ownership::parse(comment)?))).collect())
}

/// Since when a database is in its state, for example retained.
pub async fn since(postgres: &Postgres, names: &Names) -> Result<Option<Timestamp>, Error> {
    let sql = "SELECT to_char(since AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"'), state FROM ahoi.databases \
               WHERE database = $1";
    let found = postgres.pairs(sql, &names.database).await.map_err(|failure| failure.into_error(&postgres.name))?;
    Ok(found.first().and_then(|(since, _)| since.parse().ok()))
}

/// Namespace and name of the object of a database, from the administrators' table.
pub async fn owner_of(postgres: &Postgres, names: &Names) -> Result<(String, String), Error> {
    let sql = "SELECT namespace, name FROM ahoi.databases WHERE database = $1";
    let found = postgres.pairs(sql, &names.database).await.map_err(|failure| failure.into_error(&postgres.name))?;
    Ok(found.into_iter().next().unwrap_or_default())
}
