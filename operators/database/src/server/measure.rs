//! Which databases have grown. Measuring one costs PostgreSQL a look at each of its files, so the statistics say first
//! which databases anything was written to.

use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::{Duration, Instant};

use ahoi_reconcile::Error;
use serde::Deserialize;

use super::disk;
use super::sweep::{Memory, Wanted};
use crate::postgres::read_only;
use crate::postgres::server::{Failure, ServerPool};
use crate::quota::Level;

/// How often databases are measured. With what follows (PostgreSQL publishes a session's statistics after at most 10 s,
/// the reconcile takes a few) this makes the 60 seconds that the documentation of `spec.storage` promises.
pub const INTERVAL: Duration = Duration::from_secs(20);
/// Measurements in a sweep.
pub const IN_A_SWEEP: u32 = 3;
/// Measurements until each database has been measured whatever the statistics say: they may be lost, and VACUUM, which
/// makes a database smaller, does not show in them.
const SLICES: u64 = 30;
/// How long growth is remembered: a minute, and what a measurement may come late.
const WINDOW: Duration = Duration::from_secs(75);
/// What a database may grow in a minute after its storage is used up.
pub const TOLERATED: i64 = 1024 * 1024;

/// Row counters move with all that makes a file longer: rows of tables, of the catalogs (every DDL command) and of large
/// objects, also in a transaction that is rolled back. A session reports them at the end of its transaction; until then its
/// database counts as written to. Whoever may not see a session's transaction takes it for one that writes.
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

/// What the statistics say of a server's databases.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Activity {
    /// Whether the server counts at all.
    counted: bool,
    standby: bool,
    read_only: bool,
    /// Whether the admin role may list temporary files and the WAL.
    lists_files: bool,
    /// Rows written since the statistics began.
    written: HashMap<String, i64>,
    /// Databases with a transaction under way.
    busy: HashSet<String>,
}

/// The databases to measure now: those that were written to, those that are full, and a slice of the others.
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

/// Measures the databases that may have another size.
pub async fn measure(pool: &ServerPool, wanted: &[&Wanted]) -> Result<(), Error> {
    let failed = |failure: Failure| failure.into_error(&pool.name);
    let json = pool.text(ACTIVITY, [None, None]).await.map_err(failed)?;
    let activity: Activity = serde_json::from_str(&json).map_err(anyhow::Error::from)?;
    if activity.standby || activity.read_only {
        return Err(read_only::of_server(&pool.name, activity.standby));
    }
    let due = {
        let mut memory = pool.memory.lock();
        memory.measurements = memory.measurements.wrapping_add(1);
        due(wanted.iter().copied(), &activity, &memory)
    };
    let temporary = if activity.lists_files { disk::temporary_files(pool).await? } else { HashMap::new() };
    let sizes = if due.is_empty() { Vec::new() } else { pool.sizes(&due).await.map_err(failed)? };
    let mut memory = pool.memory.lock();
    memory.sizes.extend(sizes);
    memory.written = activity.written;
    (memory.lists_files, memory.temporary) = (activity.lists_files, temporary);
    memory.note_growth(wanted, Instant::now());
    Ok(())
}

impl Memory {
    /// Writes down the sizes of the databases whose storage is used up, and forgets the others.
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

/// How a database grows whose storage is used up.
#[derive(Clone, Debug, Default)]
pub struct Growth {
    sizes: VecDeque<(Instant, i64)>,
    /// The size when writes were refused.
    first: Option<i64>,
    /// Bytes of free space maps and visibility maps: VACUUM writes them, and is to be encouraged.
    maps: i64,
}

impl Growth {
    /// From this size on.
    pub fn from(size: i64, now: Instant) -> Self {
        Growth { sizes: [(now, size)].into(), first: Some(size), maps: 0 }
    }

    /// Writes a size down.
    fn note(&mut self, size: i64, now: Instant) {
        self.first.get_or_insert(size);
        self.sizes.push_back((now, size));
        self.sizes.retain(|(at, _)| now.duration_since(*at) <= WINDOW);
    }

    /// Bytes that the database has grown within about a minute.
    pub fn bytes(&self) -> i64 {
        let smallest = self.sizes.iter().map(|(_, size)| *size).min();
        let last = self.sizes.back().map(|(_, size)| *size);
        last.zip(smallest).map_or(0, |(last, smallest)| last - smallest)
    }

    /// Whether that is more than is tolerated.
    pub fn is_too_much(&self) -> bool {
        self.bytes() > TOLERATED
    }

    /// The same, once the database itself was asked. Maps that are new are no growth, the size may have been that of a moment,
    /// and VACUUM FULL is to have room for its copies: as much again as there was.
    pub fn is_still_too_much(&mut self, size: i64, maps: i64, is_rewriting: bool, now: Instant) -> bool {
        self.note(size, now);
        if is_rewriting && self.first.is_some_and(|first| size < first.saturating_mul(2)) {
            return false;
        }
        let new_maps = (maps - std::mem::replace(&mut self.maps, maps)).max(0);
        let is_too_much = self.bytes() - new_maps > TOLERATED;
        if !is_too_much {
            self.sizes = [(now, size)].into();
        }
        is_too_much
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn wanted(index: usize) -> Wanted {
        Wanted { desired: None, database: format!("c_{index}"), storage: 100, told: Some(10), level: Level::Within }
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
    fn what_may_have_written_is_measured_at_once() {
        // In another slice than this measurement's.
        let small = wanted((0..).find(|index| slice_of(&format!("c_{index}")) != 0).unwrap());
        let name = small.database.clone();
        let counts = |count| HashMap::from([(name.clone(), count)]);
        let memory = Memory { written: counts(5), ..Memory::default() };
        let is_due = |wanted: &Wanted, activity: &Activity, memory: &Memory| {
            due([wanted].into_iter(), activity, memory) == [name.clone()]
        };
        assert!(!is_due(&small, &counted(counts(5)), &memory), "nothing was written");
        assert!(is_due(&small, &counted(counts(6)), &memory), "a row was");
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
    fn growth_is_of_the_last_minute() {
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let mut growth = Growth::default();
        growth.note(100_000_000, start);
        assert!(!growth.is_too_much(), "one size is no growth");
        growth.note(100_000_000 + TOLERATED, start + 20 * second);
        assert!(!growth.is_too_much());
        growth.note(100_000_001 + TOLERATED, start + 40 * second);
        assert!(growth.is_too_much());
        // Half of it in each minute goes on for ever.
        let mut slow = Growth::default();
        for step in 0..100_u32 {
            slow.note(i64::from(step) * TOLERATED / 6, start + step * 20 * second);
            assert!(!slow.is_too_much(), "step {step}");
        }
    }

    #[test]
    fn maps_are_no_growth_once() {
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let mut growth = Growth::default();
        growth.note(0, start);
        assert!(
            !growth.is_still_too_much(5 * TOLERATED, 5 * TOLERATED, false, start + 20 * second),
            "VACUUM wrote maps"
        );
        assert!(!growth.is_too_much(), "what was explained is not asked again");
        assert!(growth.is_still_too_much(7 * TOLERATED, 5 * TOLERATED, false, start + 40 * second), "the same maps");
    }

    #[test]
    fn vacuum_full_has_room_for_a_copy() {
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let mut growth = Growth::from(100 * TOLERATED, start);
        for step in 1..9_u32 {
            let size = (100 + 11 * i64::from(step)) * TOLERATED;
            assert!(!growth.is_still_too_much(size, 0, true, start + step * 20 * second), "step {step}");
        }
        assert!(growth.is_still_too_much(201 * TOLERATED, 0, true, start + 180 * second), "and for no more");
        assert!(!growth.is_still_too_much(101 * TOLERATED, 0, false, start + 400 * second), "it has ended");
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
        /// Whatever its size and its slice, a database whose counter moved is measured.
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
