//! Chooses the server of a new database.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};

use ahoi_api::Placement;
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
        return Err(Error::structural("NoMatchingDatabaseServer", which));
    }
    let free: Vec<_> = matching.into_iter().filter(|candidate| candidate.has_capacity(need)).collect();
    if free.is_empty() {
        return Err(Error::structural(
            "NoFreeCapacity",
            "every matching DatabaseServer is full: raise spec.maxDatabases or spec.capacity of one, or add another",
        ));
    }
    let best = free
        .iter()
        .filter(|candidate| candidate.ready)
        .min_by_key(|candidate| (Reverse(candidate.free()), candidate.allocated, candidate.databases, &candidate.name));
    best.map(|candidate| candidate.name.clone()).ok_or_else(|| {
        let mut names: Vec<_> = free.iter().map(|candidate| candidate.name.as_str()).collect();
        names.sort_unstable();
        Error::waiting("WaitingForDatabaseServer", format!("DatabaseServer {} is not Ready", names.join(" and ")))
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
    /// Chooses a server for the Database with this uid. `is_pending` says which Databases have no server in their status yet.
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
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn candidate(name: &str) -> Candidate {
        Candidate { name: name.into(), ready: true, ..Candidate::default() }
    }

    fn chosen(bytes: i64, candidates: &[Candidate]) -> Result<String, String> {
        choose(&Need { selector: &BTreeMap::new(), bytes }, candidates).map_err(|error| error.reason().to_owned())
    }

    #[test]
    fn the_most_free_storage_wins() {
        let with =
            |name: &str, capacity, allocated| Candidate { capacity: Some(capacity), allocated, ..candidate(name) };
        assert_eq!(chosen(10, &[with("a", 100, 60), with("b", 90, 20), with("c", 50, 0)]), Ok("b".into()));
        assert_eq!(chosen(80, &[with("a", 100, 60), with("b", 90, 20)]), Err("NoFreeCapacity".into()));
    }

    #[test]
    fn without_limits_the_least_used_wins() {
        let with = |name: &str, allocated, databases| Candidate { allocated, databases, ..candidate(name) };
        assert_eq!(chosen(10, &[with("a", 5, 9), with("b", 5, 3), with("c", 6, 0)]), Ok("b".into()));
    }

    #[test]
    fn the_number_of_databases_is_limited() {
        let full = Candidate { databases: 3, max_databases: Some(3), ..candidate("a") };
        assert_eq!(chosen(1, std::slice::from_ref(&full)), Err("NoFreeCapacity".into()));
        assert_eq!(chosen(1, &[full, candidate("b")]), Ok("b".into()));
    }

    #[test]
    fn the_selector_is_respected() {
        let selector = BTreeMap::from([("tier".to_owned(), "gold".to_owned())]);
        let need = Need { selector: &selector, bytes: 1 };
        let gold = Candidate { labels: selector.clone(), ..candidate("gold") };
        assert_eq!(choose(&need, &[candidate("any"), gold]).unwrap(), "gold");
        let error = choose(&need, &[candidate("any")]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "no DatabaseServer that accepts new databases has the labels tier=gold of spec.serverSelector: correct it, or label a \
             DatabaseServer"
        );
    }

    #[test]
    fn closed_and_reserved_servers_are_skipped() {
        let with = |name: &str, placement| Candidate {
            placement,
            labels: [("tier".to_owned(), "gold".to_owned())].into(),
            ..candidate(name)
        };
        let servers = [with("closed", Placement::Closed), with("reserved", Placement::Selected)];
        assert_eq!(chosen(1, &servers), Err("NoMatchingDatabaseServer".into()));
        let selector = BTreeMap::from([("tier".to_owned(), "gold".to_owned())]);
        assert_eq!(choose(&Need { selector: &selector, bytes: 1 }, &servers).unwrap(), "reserved");
        assert!(choose(&Need { selector: &selector, bytes: 1 }, &servers[..1]).is_err());
    }

    #[test]
    fn a_server_that_is_not_ready_is_waited_for() {
        let down = |name: &str| Candidate { ready: false, ..candidate(name) };
        let error = choose(&Need { selector: &BTreeMap::new(), bytes: 1 }, &[down("b"), down("a")]).unwrap_err();
        assert_eq!(
            (error.reason(), error.to_string().as_str()),
            ("WaitingForDatabaseServer", "DatabaseServer a and b is not Ready")
        );
        assert_eq!(chosen(1, &[down("a"), candidate("c")]), Ok("c".into()));
    }

    #[test]
    fn recent_placements_count() {
        let placements = Placements::default();
        let need = Need { selector: &BTreeMap::new(), bytes: 10 };
        let candidates = || vec![candidate("a"), candidate("b")];
        let place = |uid: &str| placements.choose(uid, &need, candidates, |_| true).unwrap();
        assert_eq!([place("1"), place("2"), place("3")], ["a", "b", "a"]);
        assert_eq!(place("3"), "a", "a retry does not count twice");
        // They are in the status, so the candidates count them.
        assert_eq!(placements.choose("4", &need, candidates, |_| false).unwrap(), "a");
    }

    proptest! {
        #[test]
        fn capacity_is_never_exceeded(servers in proptest::collection::vec((0..5_i64, 0..500_i64), 1..5), needs in proptest::collection::vec(1..200_i64, 0..20)) {
            let mut candidates: Vec<_> = servers.iter().enumerate().map(|(index, (max, capacity))| Candidate {
                max_databases: Some(*max), capacity: Some(*capacity), ..candidate(&format!("s{index}"))
            }).collect();
            for bytes in needs {
                if let Ok(name) = chosen(bytes, &candidates) {
                    let server = candidates.iter_mut().find(|candidate| candidate.name == name).unwrap();
                    server.databases += 1;
                    server.allocated += bytes;
                    prop_assert!(server.databases <= server.max_databases.unwrap() && server.allocated <= server.capacity.unwrap());
                }
            }
        }
    }
}
