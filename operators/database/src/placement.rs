//! Chooses the server of a new database.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};

use ahoi_api::{Placement, Reason};
use ahoi_reconcile::Error;
use parking_lot::Mutex;

/// What a database needs.
#[derive(Clone, Debug)]
pub struct Need<'a> {
    /// Labels that the server must have.
    pub selector: &'a BTreeMap<String, String>,
    /// Storage in bytes.
    pub bytes: i64,
}

/// A server as placement sees it.
#[derive(Clone, Debug, Default)]
pub struct Candidate {
    /// Name of the DatabaseServer.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Which databases it accepts.
    pub placement: Placement,
    /// Whether it is Ready.
    pub ready: bool,
    /// Number of databases that are or will be on it.
    pub databases: i64,
    /// Maximum number of databases.
    pub max_databases: Option<i64>,
    /// Allocated storage in bytes.
    pub allocated: i64,
    /// Maximum of allocated storage in bytes.
    pub capacity: Option<i64>,
}

impl Candidate {
    fn matches(&self, need: &Need<'_>) -> bool {
        self.placement != Placement::Closed && is_selected(self.placement, &self.labels, need.selector)
    }

    fn has_capacity(&self, need: &Need<'_>) -> bool {
        self.max_databases.is_none_or(|max| self.databases < max) && self.free() >= need.bytes
    }

    fn free(&self) -> i64 {
        self.capacity.map_or(i64::MAX, |capacity| capacity.saturating_sub(self.allocated))
    }
}

/// Whether a selector selects a server, placement `Closed` aside.
pub fn is_selected(
    placement: Placement,
    labels: &BTreeMap<String, String>,
    selector: &BTreeMap<String, String>,
) -> bool {
    let satisfied = selector.iter().all(|(key, value)| labels.get(key) == Some(value));
    satisfied && (placement != Placement::Selected || !selector.is_empty())
}

/// The matching Ready server with the most free storage; among equals the one with the least allocated storage, then the one with
/// the fewest databases.
pub fn choose(need: &Need<'_>, candidates: &[Candidate]) -> Result<String, Error> {
    let matching: Vec<_> = candidates.iter().filter(|candidate| candidate.matches(need)).collect();
    if matching.is_empty() {
        let which = if need.selector.is_empty() {
            "no DatabaseServer accepts databases without a selector: set spec.placement of a DatabaseServer to Open, or set spec.serverSelector"
                .to_owned()
        } else {
            format!(
                "no DatabaseServer that accepts new databases has the labels {} of spec.serverSelector: correct it, or label a \
                 DatabaseServer",
                labels(need.selector)
            )
        };
        return Err(Error::structural(Reason::NoMatchingDatabaseServer, which));
    }
    let free: Vec<_> = matching.into_iter().filter(|candidate| candidate.has_capacity(need)).collect();
    if free.is_empty() {
        return Err(Error::structural(
            Reason::NoFreeCapacity,
            "every matching DatabaseServer is full: raise spec.maxDatabases or spec.maxStorage of one, or add another",
        ));
    }
    let best = free
        .iter()
        .filter(|candidate| candidate.ready)
        .min_by_key(|candidate| (Reverse(candidate.free()), candidate.allocated, candidate.databases, &candidate.name));
    best.map(|candidate| candidate.name.clone()).ok_or_else(|| {
        let mut names: Vec<_> = free.iter().map(|candidate| candidate.name.as_str()).collect();
        names.sort_unstable();
        Error::waiting(Reason::WaitingForDatabaseServer, format!("DatabaseServer {} is not Ready", names.join(" and ")))
    })
}

/// Databases whose server was chosen and is not in their status yet. Without them, a hundred new databases at once would all choose
/// the same server.
#[derive(Default)]
pub struct Placements(Mutex<HashMap<String, Placed>>);

struct Placed {
    server: String,
    bytes: i64,
}

impl Placements {
    /// Chooses a server for the Database with this uid. `is_pending` is true for Databases without a server in their status.
    pub fn choose(
        &self,
        uid: &str,
        need: &Need<'_>,
        candidates: impl FnOnce() -> Vec<Candidate>,
        is_pending: impl Fn(&str) -> bool,
    ) -> Result<String, Error> {
        let mut placed = self.0.lock();
        placed.retain(|other, _| other != uid && is_pending(other));
        let mut candidates = candidates();
        for Placed { server, bytes } in placed.values() {
            for candidate in candidates.iter_mut().filter(|candidate| candidate.name == *server) {
                candidate.databases += 1;
                candidate.allocated = candidate.allocated.saturating_add(*bytes);
            }
        }
        let server = choose(need, &candidates)?;
        placed.insert(uid.to_owned(), Placed { server: server.clone(), bytes: need.bytes });
        Ok(server)
    }
}

fn labels(selector: &BTreeMap<String, String>) -> String {
    selector.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests;
