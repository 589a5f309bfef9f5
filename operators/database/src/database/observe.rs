//! Reads what there is from a server's catalogs, in one query, for one database or for all of ours.

use ahoi_reconcile::Error;

use super::model::Observed;
use super::names::Names;
use super::stamp::{Stamp, State};
use crate::server::{Failure, ServerPool};

/// Parameters: the databases and the roles to look for; NULL for all of ours.
const QUERY: &str = r#"
SELECT json_build_object(
  'version', current_setting('server_version_num')::int,
  'operator', current_user,
  'databases', coalesce((
    SELECT json_object_agg(d.datname, json_build_object(
      'owner', pg_get_userbyid(d.datdba), 'open', d.datallowconn, 'limit', d.datconnlimit, 'comment', c.description,
      'grants', coalesce((
        SELECT json_agg(json_build_object(
          'grantee', coalesce(g.rolname, ''), 'privilege', a.privilege_type, 'grantable', a.is_grantable))
        FROM aclexplode(coalesce(d.datacl, acldefault('d', d.datdba))) a LEFT JOIN pg_authid g ON g.oid = a.grantee
        WHERE a.grantee <> d.datdba), '[]')))
    FROM pg_database d
    LEFT JOIN pg_shdescription c ON c.objoid = d.oid AND c.classoid = 'pg_database'::regclass
    WHERE CASE WHEN $1::text[] IS NULL THEN d.datname ~ '^c_[0-9a-f]{12}$' OR c.description LIKE '{"ahoi":%'
      ELSE d.datname = ANY($1) END), '{}'),
  'roles', coalesce((
    SELECT json_object_agg(r.rolname, json_build_object(
      'login', r.rolcanlogin, 'limit', r.rolconnlimit, 'verifier', r.rolpassword,
      'powers', r.rolsuper OR r.rolcreatedb OR r.rolcreaterole OR r.rolreplication OR r.rolbypassrls,
      'expires', coalesce(r.rolvaliduntil <> 'infinity', false),
      'member_of', coalesce((
        SELECT json_object_agg(g.name, g.how) FROM (
          SELECT g.rolname AS name, json_build_object(
            'admin', bool_or(m.admin_option),
            'inherit', bool_or(coalesce((to_jsonb(m) ->> 'inherit_option')::bool, true)),
            'set', bool_or(coalesce((to_jsonb(m) ->> 'set_option')::bool, true))) AS how
          FROM pg_auth_members m JOIN pg_authid g ON g.oid = m.roleid
          WHERE m.member = r.oid GROUP BY g.rolname) g), '{}'),
      'settings', coalesce((
        SELECT json_object_agg(d.datname, s.setconfig)
        FROM pg_db_role_setting s JOIN pg_database d ON d.oid = s.setdatabase WHERE s.setrole = r.oid), '{}')))
    FROM pg_authid r
    WHERE CASE WHEN $2::text[] IS NULL THEN r.rolname ~ '^c_[0-9a-f]{12}_(owner|a|frozen)$'
      ELSE r.rolname = ANY($2) END), '{}')
)::text"#;

/// Stamped databases whose comment has a text in it.
const STAMPED: &str = "SELECT d.datname::text, c.description FROM pg_database d \
     JOIN pg_shdescription c ON c.objoid = d.oid AND c.classoid = 'pg_database'::regclass \
     WHERE strpos(c.description, $1) > 0 ORDER BY d.datname DESC";

/// A database and its roles.
pub async fn one(server: &ServerPool, names: &Names) -> Result<Observed, Error> {
    let databases = [names.database.clone()];
    let roles = [names.owner.clone(), names.login.clone(), names.frozen.clone()];
    read(server, [Some(&databases), Some(&roles)]).await
}

/// All databases and roles of ours.
pub async fn all(server: &ServerPool) -> Result<Observed, Error> {
    read(server, [None, None]).await
}

async fn read(server: &ServerPool, names: [Option<&[String]>; 2]) -> Result<Observed, Error> {
    let json = server.text(QUERY, names).await.map_err(|failure| failure.into_error(&server.name))?;
    Ok(serde_json::from_str(&json).map_err(anyhow::Error::from)?)
}

/// The database that an object of the same name left here when it was deleted.
pub async fn retained(server: &ServerPool, cluster: &str, object: &str) -> Result<Option<Names>, Failure> {
    let found = server.pairs(STAMPED, object).await?;
    let is_it = |comment: &str| {
        Stamp::parse(comment).is_some_and(|stamp| {
            stamp.cluster == cluster && stamp.object == object && stamp.state == State::Retained
        })
    };
    Ok(found.iter().find(|(_, comment)| is_it(comment)).map(|(database, _)| Names::of(database)))
}

/// Namespace and name of the object that a database was made for, from the platform team's own list.
pub async fn owner_of(server: &ServerPool, names: &Names) -> Result<(String, String), Error> {
    let sql = "SELECT namespace, name FROM ahoi.databases WHERE database = $1";
    let found = server.pairs(sql, &names.database).await.map_err(|failure| failure.into_error(&server.name))?;
    Ok(found.into_iter().next().unwrap_or_default())
}
