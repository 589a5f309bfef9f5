//! Measures databases. PostgreSQL reads the size of each file for that, so its statistics tell first which databases were written
//! to.

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::{Duration, Instant};

use ahoi_reconcile::Error;
use rand::Rng;
use serde::Deserialize;

use super::sweep::Wanted;
use crate::memory::{Instance, Memory};
use crate::postgres::disk;
use crate::postgres::failure::{Failure, read_only};
use crate::quota::Level;

/// Interval of measurements. PostgreSQL publishes the statistics of a session after at most 10 s, and the reconcile takes a few
/// seconds: together less than the 60 seconds that the documentation of `spec.storage` promises.
const INTERVAL: Duration = Duration::from_secs(20);
/// Number of measurements per sweep.
pub const IN_A_SWEEP: u32 = 3;
/// Number of measurements until each database has been measured regardless of the statistics: they may be lost, and they do not
/// count VACUUM, which reduces the size.
const SLICES: u64 = 30;
/// Row counters change with everything that extends a file: rows of tables, of the catalogs (every DDL command) and of large objects,
/// even in a transaction that is rolled back. A session reports them at the end of its transaction; until then its database counts as
/// written to. So does one whose sessions the admin role may not see.
const ACTIVITY: &str = r"
SELECT json_build_object(
  'counted', current_setting('track_counts')::bool,
  'standby', pg_is_in_recovery(),
  'read_only', current_setting('transaction_read_only')::bool,
  'lists_files', has_function_privilege('pg_ls_tmpdir()', 'EXECUTE')
    AND has_function_privilege('pg_ls_waldir()', 'EXECUTE'),
  'written', (SELECT coalesce(json_object_agg(datname, tup_inserted + tup_updated + tup_deleted), '{}')
    FROM pg_stat_database WHERE datname ~ '^c_[0-9a-f]{12}$'),
  'busy', (SELECT coalesce(json_agg(DISTINCT datname), '[]') FROM pg_stat_activity
    WHERE datname ~ '^c_[0-9a-f]{12}$' AND (xact_start IS NOT NULL OR query = '<insufficient privilege>')))::text
WHERE $1::text[] IS NULL AND $2::text[] IS NULL";

/// Statistics of the databases of a server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Activity {
    /// Whether the server counts rows.
    counted: bool,
    standby: bool,
    read_only: bool,
    /// Whether the admin role may list temporary files and the WAL.
    lists_files: bool,
    /// Rows written since the statistics were reset.
    written: HashMap<String, i64>,
    /// Databases with an open transaction.
    busy: HashSet<String>,
}

/// The databases to measure now: those that were written to, full ones, and a slice of the others.
fn due<'a>(wanted: impl Iterator<Item = &'a Wanted>, activity: &Activity, memory: &Memory) -> Vec<String> {
    let slice = memory.measurements % SLICES;
    let is_due = |wanted: &&Wanted| {
        let database = &wanted.database;
        let (before, now) = (memory.written.get(database), activity.written.get(database));
        !activity.counted
            || before.is_none()
            || before != now
            || activity.busy.contains(database)
            || wanted.level >= Level::Exceeded
            || memory.growth.contains_key(database)
            || slice_of(database) == slice
    };
    wanted.filter(is_due).map(|wanted| wanted.database.clone()).collect()
}

fn slice_of(database: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    database.hash(&mut hasher);
    hasher.finish() % SLICES
}

/// Measures the databases whose size may have changed.
pub async fn measure(instance: &Instance, wanted: &[&Wanted]) -> Result<(), Error> {
    let (postgres, failed) = (&instance.postgres, |failure: Failure| failure.into_error(&instance.name));
    let json = postgres.text(ACTIVITY, [None, None]).await.map_err(failed)?;
    let activity: Activity = serde_json::from_str(&json).map_err(anyhow::Error::from)?;
    if activity.standby || activity.read_only {
        return Err(read_only(&instance.name, activity.standby));
    }
    let due = {
        let mut memory = instance.memory.lock();
        memory.measurements = memory.measurements.wrapping_add(1);
        due(wanted.iter().copied(), &activity, &memory)
    };
    let temporary = if activity.lists_files { disk::temporary_files(postgres).await? } else { HashMap::new() };
    let sizes = if due.is_empty() { Vec::new() } else { postgres.sizes(&due).await.map_err(failed)? };
    let mut memory = instance.memory.lock();
    memory.sizes.extend(sizes);
    memory.written = activity.written;
    (memory.lists_files, memory.temporary) = (activity.lists_files, temporary);
    memory.note_growth(wanted, Instant::now());
    Ok(())
}

/// Delay until the next measurement. A reconcile before that has another cause, and sweeps.
pub fn next_measurement(instance: &Instance, since_sweep: u32) -> Duration {
    let interval = INTERVAL.mul_f64(rand::rng().random_range(0.8..1.2));
    instance.memory.lock().next_measurement = Some((Instant::now() + interval, since_sweep));
    interval
}

impl Memory {
    /// Records the sizes of databases whose storage is used up, and forgets the others.
    fn note_growth(&mut self, wanted: &[&Wanted], now: Instant) {
        let Memory { sizes, growth, .. } = self;
        let full: HashMap<_, _> = wanted
            .iter()
            .filter_map(|wanted| Some((wanted, *sizes.get(&wanted.database)?)))
            .filter(|(wanted, size)| wanted.level.next(*size, wanted.storage) == Level::Exceeded)
            .map(|(wanted, size)| (wanted.database.as_str(), size))
            .collect();
        growth.retain(|database, _| full.contains_key(database.as_str()));
        for (database, size) in full {
            growth.entry(database.to_owned()).or_default().note(size, now);
        }
    }
}

#[cfg(test)]
mod tests;
