//! Evaluates a sweep: which databases differ from what their objects demand, and which have no object. Pure.
//!
//! One query reads a whole server; a database that is as desired causes no other query and no request to the API server.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};

use ahoi_api::OtherCluster;

use crate::growth::Growth;
use crate::memory::Memory;
use crate::postgres::desired::Desired;
use crate::postgres::model::{DatabaseState, Observed};
use crate::postgres::names::{Names, is_database};
use crate::postgres::ownership::{Ownership, State};
use crate::postgres::plan;
use crate::quota::{self, Level};

/// A database of an object.
pub struct Wanted {
    /// Its desired state; none while its object is not Ready and is reconciled anyway.
    pub desired: Option<Desired>,
    /// Its name.
    pub database: String,
    /// Storage in bytes.
    pub storage: i64,
    /// The size in the status of the object.
    pub reported: Option<i64>,
    /// The level of the quota in the status of the object.
    pub level: Level,
}

/// The share of a list for one round: a tenth, and at least 20. Ten rounds cover the list.
pub fn share<T>(all: &[T], round: u64) -> &[T] {
    let size = all.len().div_ceil(10).max(20);
    let shares = all.len().div_ceil(size).max(1);
    let share = usize::try_from(round).unwrap_or_default() % shares;
    all.chunks(size).nth(share).unwrap_or_default()
}

/// Whether a database must be reconciled because of its size: the size is worth a write, or changes the level.
pub fn is_size_news(wanted: &Wanted, memory: &Memory) -> bool {
    memory.sizes.get(&wanted.database).is_some_and(|size| {
        quota::is_news(wanted.reported, *size, wanted.storage)
            || wanted.level.next(*size, wanted.storage) != wanted.level
    })
}

/// Whether the logins of a database must be closed, because it grows after its storage is used up, or may be opened again. Such a
/// database may not be Ready.
pub fn opens_or_closes(wanted: &Wanted, memory: &Memory) -> bool {
    let (database, level) = (&wanted.database, wanted.level);
    let has_changed = |size: &i64| level.next(*size, wanted.storage) != level;
    if level == Level::Closed {
        return memory.sizes.get(database).is_some_and(has_changed);
    }
    memory.growth.get(database).is_some_and(Growth::is_too_much)
}

/// Whether a database must be reconciled: it differs from the desired state, or has another size.
pub fn differs(wanted: &Wanted, observed: &Observed, memory: &Memory) -> bool {
    let Some(desired) = &wanted.desired else { return false };
    is_size_news(wanted, memory) || plan::differs(desired, observed)
}

/// An active database without an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Orphan {
    /// Names of the database and its roles.
    pub names: Names,
    /// Its ownership marker.
    pub ownership: Ownership,
}

/// Active databases without an object.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Orphans {
    /// To close: without an object in two sweeps in a row.
    pub close: Vec<Orphan>,
    /// Number of them, if there are so many that rather the objects are missing (a CRD was deleted, a backup was restored). None is
    /// closed then.
    pub too_many: Option<usize>,
}

/// Finds active databases of this cluster whose object does not exist.
pub fn orphans(observed: &Observed, cluster: &str, uids: &HashSet<String>, memory: &mut Memory) -> Orphans {
    let marked = || {
        let ours = observed.databases.iter().filter_map(|(name, state)| Some((name, state.ownership()?)));
        ours.filter(|(_, ownership)| ownership.cluster == cluster)
    };
    let unclaimed =
        marked().filter(|(_, ownership)| ownership.state.can_be_adopted() && !uids.contains(&ownership.uid));
    (memory.unclaimed, memory.unclaimed_databases) =
        unclaimed.map(|(name, ownership)| (ownership.object, name.clone())).unzip();
    memory.is_swept = true;
    let active: Vec<_> =
        marked().filter(|(name, ownership)| ownership.state == State::Active && is_database(name)).collect();
    let orphans: Vec<_> = active
        .iter()
        .filter(|(_, ownership)| !uids.contains(&ownership.uid))
        .map(|(name, ownership)| Orphan { names: Names::of(name), ownership: ownership.clone() })
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

/// The databases that the admin role can change: an ordinary role only those that it owns.
pub fn ours(observed: &Observed) -> Cow<'_, Observed> {
    if !observed.hidden {
        return Cow::Borrowed(observed);
    }
    let mut ours = observed.clone();
    ours.databases.retain(|_, database| database.owner == observed.operator);
    Cow::Owned(ours)
}

/// Number of databases of this cluster.
pub fn databases(observed: &Observed, cluster: &str) -> i64 {
    let is_ours = |state: &&DatabaseState| state.ownership().is_some_and(|ownership| ownership.cluster == cluster);
    i64::try_from(observed.databases.values().filter(is_ours).count()).unwrap_or(i64::MAX)
}

/// Number of databases that can be adopted, by other cluster; without clusters in `shared`.
pub fn other_clusters(observed: &Observed, cluster: &str, shared: &[String]) -> Vec<OtherCluster> {
    const MOST: usize = 16;
    let mut counts: BTreeMap<String, i64> = BTreeMap::new();
    for ownership in observed.databases.values().filter_map(DatabaseState::ownership) {
        if ownership.cluster != cluster && ownership.state.can_be_adopted() && !shared.contains(&ownership.cluster) {
            *counts.entry(ownership.cluster).or_default() += 1;
        }
    }
    counts.into_iter().map(|(id, databases)| OtherCluster { id, databases }).take(MOST).collect()
}

#[cfg(test)]
mod tests;
