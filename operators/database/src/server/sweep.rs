//! What a sweep makes of a server's databases: which differ from what their objects want, which have no object, and
//! which are to be measured this time. Pure.
//!
//! One query for a whole server; a database that is as it should be costs nothing more, and no request at all to the
//! API server.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::time::Instant;

use ahoi_api::OtherCluster;

use super::kept::Kept;
use super::measure::Growth;
use crate::postgres::desired::Desired;
use crate::postgres::model::{DatabaseState, Observed};
use crate::postgres::names::{Names, is_database};
use crate::postgres::ownership::{Stamp, State};
use crate::postgres::plan::differs;
use crate::quota::{self, Level};

/// What is remembered from one sweep to the next. Losing it costs a sweep; until then the server's status tells how much it
/// keeps for objects that are gone.
#[derive(Debug, Default)]
pub struct Memory {
    /// Whether there has been a sweep.
    pub is_swept: bool,
    /// Counts the sweeps.
    pub round: u64,
    /// Counts the measurements, of which there are several in a sweep.
    pub measurements: u64,
    /// When the next measurement is due, and how many there were since the last sweep.
    pub next_measurement: Option<(Instant, u32)>,
    /// The last measured sizes, by database.
    pub sizes: HashMap<String, i64>,
    /// Rows written since the statistics began, as of the last measurement, by database.
    pub written: HashMap<String, i64>,
    /// Bytes of temporary files, by database; empty where the admin role may not list them.
    pub temporary: HashMap<String, i64>,
    /// Whether it may.
    pub lists_files: bool,
    /// How the databases grow whose storage is used up.
    pub growth: HashMap<String, Growth>,
    /// Databases without an object, as of the last sweep.
    pub suspects: HashSet<String>,
    /// Of the databases that no object refers to, closed ones included: [`Stamp::object`]. They take a place, too, and
    /// while the server is away they tell that an object of the same name is to wait for it.
    pub unclaimed: HashSet<String>,
    /// The names of these databases.
    pub unclaimed_databases: HashSet<String>,
    /// What the server's status lists of the databases that no Database has, and what it was made from.
    pub kept: Kept,
    /// Databases whose removal was begun and that no object and no pending removal refers to, as of the last sweep.
    pub unfinished: HashSet<String>,
    /// When a removal that the server has refused is tried again, by the uid of its Database.
    pub removals: HashMap<String, Retry>,
    /// Logins that do not have the password they should have, and where that cannot be seen but by trying.
    pub wrong_passwords: HashSet<String>,
    /// Declared extensions that were not there at the last look, by database.
    pub lost_extensions: HashMap<String, BTreeSet<String>>,
    /// Whether nobody used the poolers' former login at the last look.
    pub former_is_unused: bool,
    /// Logins of poolers, of DatabaseServers that are no more, that had no session at the last look.
    pub unused_poolers: HashSet<String>,
    /// Whether too many databases without an object have been told of.
    pub alarmed: bool,
}

/// When to try again what the server has refused.
#[derive(Clone, Copy, Debug)]
pub struct Retry {
    /// Not before.
    pub next: Instant,
    /// How often it was refused in a row.
    pub refused: u32,
}

/// A database that an object wants.
pub struct Wanted {
    /// What it should be; none while its object is not settled and will look for itself.
    pub desired: Option<Desired>,
    /// Its name.
    pub database: String,
    /// What may be stored.
    pub storage: i64,
    /// The size that the object's status tells.
    pub told: Option<i64>,
    /// The level that the object's status tells.
    pub level: Level,
}

/// Those of a list whose turn it is: a tenth, and at least 20. All of them have had theirs after ten rounds.
pub fn turn<T>(all: &[T], round: u64) -> &[T] {
    let size = all.len().div_ceil(10).max(20);
    let turns = all.len().div_ceil(size).max(1);
    let turn = usize::try_from(round).unwrap_or_default() % turns;
    all.chunks(size).nth(turn).unwrap_or_default()
}

/// Whether a database is to be reconciled for its size: it is worth writing down, or changes the level.
pub fn is_size_news(wanted: &Wanted, memory: &Memory) -> bool {
    memory.sizes.get(&wanted.database).is_some_and(|size| {
        quota::is_news(wanted.told, *size, wanted.storage) || wanted.level.next(*size, wanted.storage) != wanted.level
    })
}

/// Whether a database is to be closed, because it grows although its storage is used up, or need not be closed any more.
/// Such a database may not be Ready.
pub fn opens_or_closes(wanted: &Wanted, memory: &Memory) -> bool {
    let (database, level) = (&wanted.database, wanted.level);
    let has_room = |size: &i64| level.next(*size, wanted.storage) != level;
    if level == Level::Closed {
        return memory.sizes.get(database).is_some_and(has_room);
    }
    memory.growth.get(database).is_some_and(Growth::is_too_much)
}

/// Whether a database is to be reconciled: it differs from what its object wants, or has another size.
pub fn needs_a_look(wanted: &Wanted, observed: &Observed, memory: &Memory) -> bool {
    let Some(desired) = &wanted.desired else { return false };
    is_size_news(wanted, memory) || differs(desired, observed)
}

/// A database in use that no object refers to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Orphan {
    /// Its names.
    pub names: Names,
    /// Its stamp.
    pub stamp: Stamp,
}

/// What was found about databases without an object.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Orphans {
    /// To be closed: without an object for two sweeps in a row.
    pub close: Vec<Orphan>,
    /// So many at once that it is more likely the objects that are wrong (a CRD that was deleted, a backup that was
    /// restored) than the databases. Nothing is closed.
    pub too_many: Option<usize>,
}

/// Looks for databases of this cluster that are in use and whose object is no more.
pub fn orphans(observed: &Observed, cluster: &str, uids: &HashSet<String>, memory: &mut Memory) -> Orphans {
    let stamped = || {
        let ours = observed.databases.iter().filter_map(|(name, state)| Some((name, state.stamp()?)));
        ours.filter(|(_, stamp)| stamp.cluster == cluster)
    };
    let unclaimed = stamped().filter(|(_, stamp)| stamp.state.can_be_adopted() && !uids.contains(&stamp.uid));
    (memory.unclaimed, memory.unclaimed_databases) =
        unclaimed.map(|(name, stamp)| (stamp.object, name.clone())).unzip();
    memory.is_swept = true;
    let active: Vec<_> = stamped().filter(|(name, stamp)| stamp.state == State::Active && is_database(name)).collect();
    let orphans: Vec<_> = active
        .iter()
        .filter(|(_, stamp)| !uids.contains(&stamp.uid))
        .map(|(name, stamp)| Orphan { names: Names::of(name), stamp: stamp.clone() })
        .collect();
    if orphans.len() > 3.max(active.len() / 5) {
        return Orphans { too_many: Some(orphans.len()), ..Orphans::default() };
    }
    memory.alarmed = false;
    let now: HashSet<_> = orphans.iter().map(|orphan| orphan.names.database.clone()).collect();
    let before = std::mem::replace(&mut memory.suspects, now);
    let close = orphans.into_iter().filter(|orphan| before.contains(&orphan.names.database)).collect();
    Orphans { close, too_many: None }
}

/// How many databases of this cluster there are.
pub fn databases(observed: &Observed, cluster: &str) -> i64 {
    let is_ours = |state: &&DatabaseState| state.stamp().is_some_and(|stamp| stamp.cluster == cluster);
    i64::try_from(observed.databases.values().filter(is_ours).count()).unwrap_or(i64::MAX)
}

/// Databases that can be adopted, by the other cluster that they belong to; those of `shared` are no news.
pub fn other_clusters(observed: &Observed, cluster: &str, shared: &[String]) -> Vec<OtherCluster> {
    const MOST: usize = 16;
    let mut counts: BTreeMap<String, i64> = BTreeMap::new();
    for stamp in observed.databases.values().filter_map(DatabaseState::stamp) {
        if stamp.cluster != cluster && stamp.state.can_be_adopted() && !shared.contains(&stamp.cluster) {
            *counts.entry(stamp.cluster).or_default() += 1;
        }
    }
    counts.into_iter().map(|(id, databases)| OtherCluster { id, databases }).take(MOST).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::postgres::ownership::Cluster;

    fn server(databases: usize) -> Observed {
        let cluster = Cluster::new("cluster");
        let database = |index: usize| {
            let stamp = Stamp {
                cluster: cluster.id.clone(),
                object: cluster.object("n", &index.to_string()),
                uid: format!("uid-{index}"),
                state: State::Active,
                extensions: None,
                frozen: false,
                full: false,
            };
            (format!("c_{index:012}"), DatabaseState { comment: Some(stamp.comment()), ..DatabaseState::default() })
        };
        Observed { databases: (0..databases).map(database).collect(), ..Observed::default() }
    }

    fn objects(range: std::ops::Range<usize>) -> HashSet<String> {
        range.map(|index| format!("uid-{index}")).collect()
    }

    #[test]
    fn an_orphan_is_closed_at_the_second_sight() {
        let (cluster, mut memory) = (Cluster::new("cluster").id, Memory::default());
        assert_eq!(orphans(&server(10), &cluster, &objects(1..10), &mut memory), Orphans::default());
        assert_eq!(memory.unclaimed, [Cluster::new("cluster").object("n", "0")].into());
        let second = orphans(&server(10), &cluster, &objects(1..10), &mut memory);
        assert_eq!(
            second.close.iter().map(|orphan| orphan.names.database.as_str()).collect::<Vec<_>>(),
            ["c_000000000000"]
        );
        // Back in between: it starts anew.
        let mut memory = Memory::default();
        orphans(&server(10), &cluster, &objects(1..10), &mut memory);
        orphans(&server(10), &cluster, &objects(0..10), &mut memory);
        assert_eq!(orphans(&server(10), &cluster, &objects(1..10), &mut memory), Orphans::default());
    }

    #[test]
    fn vanished_objects_close_nothing() {
        let (cluster, mut memory) = (Cluster::new("cluster").id, Memory::default());
        for _ in 0..3 {
            let found = orphans(&server(100), &cluster, &HashSet::new(), &mut memory);
            assert_eq!(found, Orphans { close: vec![], too_many: Some(100) });
        }
    }

    #[test]
    fn other_clusters_databases_are_not_ours() {
        let mut memory = Memory::default();
        for _ in 0..2 {
            assert_eq!(orphans(&server(2), "another", &HashSet::new(), &mut memory), Orphans::default());
        }
        assert_eq!((memory.unclaimed.len(), databases(&server(2), "another")), (0, 0));
        let theirs = Cluster::new("cluster").id;
        assert_eq!(databases(&server(2), &theirs), 2);
        let found = |cluster: &str, shared: &[String]| other_clusters(&server(2), cluster, shared);
        assert_eq!(found("another", &[]), [OtherCluster { id: theirs.clone(), databases: 2 }]);
        assert_eq!(found("another", std::slice::from_ref(&theirs)), []);
        assert_eq!(found(&theirs, &[]), []);
    }

    #[test]
    fn everybody_has_a_turn_in_ten_rounds() {
        for count in [0, 1, 20, 21, 199, 200, 201, 2000] {
            let all: Vec<usize> = (0..count).collect();
            let mut seen: Vec<usize> = (0..10).flat_map(|round| turn(&all, round).to_vec()).collect();
            seen.sort_unstable();
            seen.dedup();
            assert_eq!(seen, all, "{count}");
        }
        assert_eq!(turn(&[1, 2, 3], 7), [1, 2, 3], "a few are tried in every round");
    }
}
