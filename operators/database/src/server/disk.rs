//! How full the disk of a server is, and what temporary files take of it.
//!
//! PostgreSQL does not tell how large its disk is, so `spec.diskSize` does. What it uses is added up: databases, WAL and
//! temporary files. Its log and what else lies on the disk is not seen.

use std::collections::HashMap;

use ahoi_api::{DatabaseServer, DatabaseServerStatus};
use ahoi_reconcile::Error;
use ahoi_reconcile::conditions::{self, ConditionStatus, DesiredCondition, find};
use postgres_protocol::escape::escape_literal as literal;

use crate::postgres::server::ServerPool;

/// The type of the condition about the disk.
pub const DISK: &str = "DiskOk";
/// The type of the condition about temporary files.
const TEMPORARY: &str = "TemporaryFilesLimited";
/// Percent of the disk from which on it is nearly full, and below which it no longer is.
const NEARLY_FULL: i64 = 85;
const ENOUGH: i64 = 80;
/// Bytes of temporary files that every customer may have.
const LEAST_TEMPORARY: i64 = 256 << 20;

/// Bytes in the temporary files of each database, by the process that a file's name begins with.
const HELD: &str = r"
SELECT coalesce(json_object_agg(datname, bytes), '{}')::text FROM (
  SELECT a.datname, sum(f.size)::bigint AS bytes FROM pg_ls_tmpdir() f
  JOIN pg_stat_activity a ON a.pid = substring(f.name FROM '^pgsql_tmp([0-9]+)')::int
  WHERE a.datname ~ '^c_[0-9a-f]{12}$' GROUP BY a.datname) held
WHERE $1::text[] IS NULL AND $2::text[] IS NULL";

/// Bytes of the databases that are not in a list. A role that is no superuser may not measure those it cannot connect to.
const OTHERS: &str = r"
SELECT coalesce(sum(CASE WHEN has_database_privilege(oid, 'CONNECT') OR pg_has_role('pg_read_all_stats', 'USAGE')
  THEN pg_database_size(oid) END), 0)::bigint::text
FROM pg_database WHERE datname <> ALL ($1) AND datconnlimit <> -2 AND $2::text[] IS NULL";

const WAL: &str = "SELECT coalesce(sum(size), 0)::bigint::text FROM pg_ls_waldir() \
     WHERE $1::text[] IS NULL AND $2::text[] IS NULL";

/// Bytes of temporary files by database. Only for an admin role that may list them.
pub async fn temporary_files(pool: &ServerPool) -> Result<HashMap<String, i64>, Error> {
    let json = pool.text(HELD, [None, None]).await.map_err(|failure| failure.into_error(&pool.name))?;
    Ok(serde_json::from_str(&json).map_err(anyhow::Error::from)?)
}

/// Whether a customer with this storage has more temporary files than it may.
pub fn is_too_much(temporary: i64, storage: i64) -> bool {
    temporary > storage.max(LEAST_TEMPORARY)
}

/// Ends the sessions of a database that have temporary files, which removes the files.
pub async fn end_sessions(pool: &ServerPool, database: &str) -> Result<(), Error> {
    let sql = format!(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = {} AND pid IN \
         (SELECT substring(name FROM '^pgsql_tmp([0-9]+)')::int FROM pg_ls_tmpdir())",
        literal(database)
    );
    pool.run(&sql).await.map_err(|failure| failure.into_error(&pool.name))
}

/// Bytes that the server's databases, its WAL and its temporary files take; of databases in `known` this is known.
pub async fn used(pool: &ServerPool, known: &HashMap<String, i64>) -> Result<i64, Error> {
    let lists_files = pool.memory.lock().lists_files;
    let number = async |sql: &str, names: Option<&[String]>| {
        let text = pool.text(sql, [names, None]).await.map_err(|failure| failure.into_error(&pool.name))?;
        text.parse::<i64>().map_err(|error| Error::Other(error.into()))
    };
    let names: Vec<String> = known.keys().cloned().collect();
    let others = number(OTHERS, Some(&names)).await?;
    let wal = if lists_files { number(WAL, None).await? } else { 0 };
    let temporary: i64 = pool.memory.lock().temporary.values().sum();
    Ok(known.values().sum::<i64>() + others + wal + temporary)
}

/// Writes down what of the disk is used, if that is news, and whether it is nearly full. The answer is the fraction.
pub fn settle(status: &mut DatabaseServerStatus, server: &DatabaseServer, used: i64) -> Option<f64> {
    let size = server.spec.disk_size.as_ref().and_then(|size| size.bytes().ok()).filter(|size| *size > 0);
    let known = status.used_bytes.unwrap_or_default();
    if known.abs_diff(used) > size.unwrap_or(known).unsigned_abs() / 100 {
        status.used_bytes = Some(used);
    }
    let Some(size) = size else {
        conditions::remove(&mut status.conditions, DISK);
        return None;
    };
    let was_full = find(&status.conditions, DISK).is_some_and(|condition| condition.status == "False");
    let percent = i64::try_from(i128::from(used) * 100 / i128::from(size)).unwrap_or(i64::MAX);
    let is_full = percent >= if was_full { ENOUGH } else { NEARLY_FULL };
    let desired = if is_full {
        let message = format!(
            "at least {ENOUGH} % of the disk is used (spec.diskSize {}): PostgreSQL stops when it is full. Enlarge the disk \
             and spec.diskSize, or drop databases that status.retained counts",
            server.spec.disk_size.as_ref().map(ToString::to_string).unwrap_or_default()
        );
        DesiredCondition::new(DISK, ConditionStatus::False, "DiskNearlyFull", message)
    } else {
        let message = format!("less than {NEARLY_FULL} % of the disk is used");
        DesiredCondition::new(DISK, ConditionStatus::True, "EnoughSpace", message)
    };
    let _ = conditions::set(&mut status.conditions, desired.observed_generation(server.metadata.generation));
    // Sizes that matter are small enough for a float.
    #[allow(clippy::cast_precision_loss)]
    Some(used as f64 / size as f64)
}

/// Whether temporary files of customers are bounded: by their logins, or by the server's own setting.
pub fn temporary_condition(admin_limits: bool, server_limit: &str, admin: &str) -> DesiredCondition {
    if admin_limits || server_limit != "-1" {
        let message = "the temporary files of each session are limited";
        return DesiredCondition::new(TEMPORARY, ConditionStatus::True, "Limited", message);
    }
    let message = format!(
        "one customer's temporary files can fill the disk: as a superuser run GRANT SET ON PARAMETER temp_file_limit TO \
         \"{admin}\", or set temp_file_limit in postgresql.conf"
    );
    DesiredCondition::new(TEMPORARY, ConditionStatus::False, "PrivilegeMissing", message)
}
