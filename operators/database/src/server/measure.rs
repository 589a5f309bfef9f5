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
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn wanted(index: usize) -> Wanted {
        Wanted { desired: None, database: format!("c_{index}"), storage: 100, reported: Some(10), level: Level::Within }
    }

    fn written(counts: impl IntoIterator<Item = (usize, i64)>) -> HashMap<String, i64> {
        counts.into_iter().map(|(index, count)| (format!("c_{index}"), count)).collect()
    }

    fn counted(written: HashMap<String, i64>) -> Activity {
        Activity { counted: true, written, ..Activity::default() }
    }

    #[test]
    fn each_database_is_measured_once_in_a_round_of_slices() {
        let all: Vec<_> = (0..300).map(wanted).collect();
        let counts = written((0..300).map(|index| (index, 7)));
        let mut seen: HashMap<String, usize> = HashMap::new();
        for measurements in 0..SLICES {
            let memory = Memory { measurements, written: counts.clone(), ..Memory::default() };
            for database in due(all.iter(), &counted(counts.clone()), &memory) {
                *seen.entry(database).or_default() += 1;
            }
        }
        assert_eq!(seen.len(), 300);
        assert!(seen.values().all(|times| *times == 1));
    }

    #[test]
    fn written_databases_are_measured_at_once() {
        // In another slice than that of this measurement.
        let small = wanted((0..).find(|index| slice_of(&format!("c_{index}")) != 0).unwrap());
        let name = small.database.clone();
        let counts = |count| HashMap::from([(name.clone(), count)]);
        let memory = Memory { written: counts(5), ..Memory::default() };
        let is_due = |wanted: &Wanted, activity: &Activity, memory: &Memory| {
            due([wanted].into_iter(), activity, memory) == [name.clone()]
        };
        assert!(!is_due(&small, &counted(counts(5)), &memory), "nothing was written");
        assert!(is_due(&small, &counted(counts(6)), &memory), "a row was written");
        assert!(is_due(&small, &counted(counts(2)), &memory), "the statistics were reset");
        assert!(is_due(&small, &counted(HashMap::new()), &memory), "the statistics were lost");
        assert!(is_due(&small, &counted(counts(5)), &Memory::default()), "nothing is known yet");
        let busy = Activity { busy: [name.clone()].into(), ..counted(counts(5)) };
        assert!(is_due(&small, &busy, &memory), "a transaction has not ended");
        assert!(is_due(&small, &Activity { counted: false, ..counted(counts(5)) }, &memory), "nothing is counted");
        for level in [Level::Exceeded, Level::Closed] {
            let full = Wanted { level, ..wanted(0) };
            let full = Wanted { database: name.clone(), ..full };
            assert!(is_due(&full, &counted(counts(5)), &memory), "{level:?}");
        }
    }

    #[test]
    fn only_full_databases_are_watched_for_growth() {
        let now = Instant::now();
        let sizes = [("c_1".to_owned(), 99), ("c_2".to_owned(), 100), ("c_3".to_owned(), 95)].into();
        let mut memory = Memory { sizes, ..Memory::default() };
        let full = Wanted { level: Level::Exceeded, ..wanted(3) };
        let all = [wanted(1), wanted(2), full, wanted(4)];
        memory.note_growth(&all.iter().collect::<Vec<_>>(), now);
        let mut watched: Vec<_> = memory.growth.keys().map(String::as_str).collect();
        watched.sort_unstable();
        assert_eq!(watched, ["c_2", "c_3"]);
        memory.sizes.insert("c_2".into(), 50);
        memory.note_growth(&all.iter().collect::<Vec<_>>(), now);
        assert!(!memory.growth.contains_key("c_2"));
    }

    proptest! {
        /// A database whose counter changed is measured, in whichever slice it is.
        #[test]
        fn no_write_is_missed(counts in proptest::collection::vec((0..5_i64, 0..5_i64), 0..40), measurements in any::<u64>()) {
            let all: Vec<_> = (0..counts.len()).map(wanted).collect();
            let before = written(counts.iter().enumerate().map(|(index, (before, _))| (index, *before)));
            let after = written(counts.iter().enumerate().map(|(index, (_, after))| (index, *after)));
            let memory = Memory { measurements, written: before, ..Memory::default() };
            let due: HashSet<_> = due(all.iter(), &counted(after), &memory).into_iter().collect();
            for (index, (before, after)) in counts.iter().enumerate() {
                let name = format!("c_{index}");
                prop_assert!(before == after || due.contains(&name));
            }
        }
    }
}
