//! Bytes on the disk of a server: databases, WAL and temporary files.

use std::collections::HashMap;

use ahoi_reconcile::Error;
use postgres_protocol::escape::escape_literal as literal;

use super::server::Postgres;

/// Bytes of temporary files by database, from the process id in the names of the files.
const HELD: &str = r"
SELECT coalesce(json_object_agg(datname, bytes), '{}')::text FROM (
  SELECT a.datname, sum(f.size)::bigint AS bytes FROM pg_ls_tmpdir() f
  JOIN pg_stat_activity a ON a.pid = substring(f.name FROM '^pgsql_tmp([0-9]+)')::int
  WHERE a.datname ~ '^c_[0-9a-f]{12}$' GROUP BY a.datname) held
WHERE $1::text[] IS NULL AND $2::text[] IS NULL";

/// Bytes of the databases that are not in a list. An ordinary role may only measure databases that it may connect to.
const OTHERS: &str = r"
SELECT coalesce(sum(CASE WHEN has_database_privilege(oid, 'CONNECT') OR pg_has_role('pg_read_all_stats', 'USAGE')
  THEN pg_database_size(oid) END), 0)::bigint::text
FROM pg_database WHERE datname <> ALL ($1) AND datconnlimit <> -2 AND $2::text[] IS NULL";

const WAL: &str = "SELECT coalesce(sum(size), 0)::bigint::text FROM pg_ls_waldir() \
     WHERE $1::text[] IS NULL AND $2::text[] IS NULL";

/// Bytes of temporary files by database. The admin role must be allowed to list them.
pub async fn temporary_files(postgres: &Postgres) -> Result<HashMap<String, i64>, Error> {
    let json = postgres.text(HELD, [None, None]).await.map_err(|failure| failure.into_error(&postgres.name))?;
    Ok(serde_json::from_str(&json).map_err(anyhow::Error::from)?)
}

/// Ends the sessions of a database that have temporary files, which removes the files.
pub async fn end_sessions(postgres: &Postgres, database: &str) -> Result<(), Error> {
    let sql = format!(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = {} AND pid IN \
         (SELECT substring(name FROM '^pgsql_tmp([0-9]+)')::int FROM pg_ls_tmpdir())",
        literal(database)
    );
    postgres.run(&sql).await.map_err(|failure| failure.into_error(&postgres.name))
}

/// Bytes of all databases and of the WAL. The sizes in `known` are not measured again; the WAL counts only if the admin role
/// `lists_files`.
pub async fn used(postgres: &Postgres, known: &HashMap<String, i64>, lists_files: bool) -> Result<i64, Error> {
    let number = async |sql: &str, names: Option<&[String]>| {
        let text = postgres.text(sql, [names, None]).await.map_err(|failure| failure.into_error(&postgres.name))?;
        text.parse::<i64>().map_err(|error| Error::Other(error.into()))
    };
    let names: Vec<String> = known.keys().cloned().collect();
    let others = number(OTHERS, Some(&names)).await?;
    let wal = if lists_files { number(WAL, None).await? } else { 0 };
    Ok(known.values().sum::<i64>() + others + wal)
}
