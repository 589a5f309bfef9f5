//! Which pools a change elsewhere concerns. All of it from memory.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use ahoi_api::{
    ClientTlsMode, ConnectionPool, Database, DatabaseServer, FormerState, NamespacedRef, POOLER_CERTIFICATES_SECRET,
    PgBouncer,
};
use ahoi_pgbouncer::fleet::reports;
use ahoi_pgbouncer::pool::{former_places, key, place};
use ahoi_reconcile::{Cache, ObjectRef};
use k8s_openapi::api::core::v1::Secret;
use kube::{Resource, ResourceExt};

use crate::placement::NO_ROOM;

type Wakings = Vec<ObjectRef<ConnectionPool>>;

/// The pools, and which of them lead to a database.
#[derive(Clone)]
pub struct Wake {
    pools: Cache<ConnectionPool>,
    by_database: Arc<Mutex<ByDatabase>>,
}

/// Names of pools by the namespace and the name of their database. It may name pools that are gone or lead elsewhere by now:
/// who looks asks the cache again.
type ByDatabase = HashMap<(String, String), HashSet<String>>;

impl Wake {
    pub fn new(pools: &Cache<ConnectionPool>) -> Self {
        Wake { pools: pools.clone(), by_database: Arc::default() }
    }

    /// Keeps the index; wakes nobody.
    pub fn remember(&self) -> impl Fn(&ConnectionPool) -> Wakings + Send + Sync + 'static {
        let by_database = self.by_database.clone();
        move |pool| {
            let key = (pool.namespace().unwrap_or_default(), pool.spec.database_ref.name.clone());
            by_database.lock().unwrap_or_else(PoisonError::into_inner).entry(key).or_default().insert(pool.name_any());
            Vec::new()
        }
    }

    /// A Database wakes the pools that lead to it.
    pub fn of_database(&self) -> impl Fn(&Database) -> Wakings + Send + Sync + 'static {
        let wake = self.clone();
        move |database| wake.leading_to(database.namespace().unwrap_or_default(), database.name_any())
    }

    /// A Database's Secret wakes the pools that lead to the Database.
    pub fn of_secret(&self) -> impl Fn(&Secret) -> Wakings + Send + Sync + 'static {
        let wake = self.clone();
        move |secret| {
            let owners = secret.owner_references().iter().filter(|owner| owner.kind == Database::kind(&()));
            let namespace = secret.namespace().unwrap_or_default();
            owners.flat_map(|owner| wake.leading_to(namespace.clone(), owner.name.clone())).collect()
        }
    }

    /// A DatabaseServer wakes the pools that lead to it or wait for one. It changes rarely, so all pools are looked at.
    pub fn of_server(&self) -> impl Fn(&DatabaseServer) -> Wakings + Send + Sync + 'static {
        let pools = self.pools.clone();
        move |server| {
            let name = server.name_any();
            let route = |pool: &ConnectionPool| {
                pool.status.as_ref().and_then(|status| status.route.as_ref()).map(|route| route.server == name)
            };
            refs(&pools, |pool| route(pool).unwrap_or(true))
        }
    }

    /// A PgBouncer wakes those of its pools that wait for its agents or are refused by them, those that wait for the end of
    /// what they leave there, and all of its own when its spec is another.
    pub fn of_fleet(&self) -> impl Fn(&PgBouncer) -> Wakings + Send + Sync + 'static {
        let pools = self.pools.clone();
        let generations: Mutex<HashMap<String, i64>> = Mutex::default();
        move |fleet| {
            let this = NamespacedRef { namespace: fleet.namespace().unwrap_or_default(), name: fleet.name_any() };
            let refused = refused(fleet);
            let generation = fleet.metadata.generation.unwrap_or_default();
            let mut generations = generations.lock().unwrap_or_else(PoisonError::into_inner);
            let other = generations.insert(fleet.uid().unwrap_or_default(), generation) != Some(generation);
            refs(&pools, |pool| {
                let is_refused = || !refused.is_empty() && refused.contains(key(pool).as_str());
                let own = other || (waits(pool) && !is_shut_out(pool)) || is_refused();
                (own && is_of(pool, &this)) || waits_for_the_end(pool, &this)
            })
        }
    }

    /// A pool that leaves, for another fleet or for good, wakes those for which there was no room.
    pub fn of_leaving(&self) -> impl Fn(&ConnectionPool) -> Wakings + Send + Sync + 'static {
        let pools = self.pools.clone();
        // The fleets that pools were leaving when they were last seen.
        let seen: Mutex<HashMap<String, Vec<NamespacedRef>>> = Mutex::default();
        move |leaving| {
            let former = former_places(leaving).iter().map(|former| former.place.fleet.clone());
            let mut fleets: Vec<NamespacedRef> = former.collect();
            let (uid, goes) = (leaving.uid().unwrap_or_default(), leaving.metadata.deletion_timestamp.is_some());
            let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
            let before = seen.remove(&uid).unwrap_or_default();
            if goes {
                fleets.push(place(leaving).fleet);
            } else if !fleets.is_empty() {
                seen.insert(uid, std::mem::take(&mut fleets));
            }
            drop(seen);
            fleets.extend(before);
            if fleets.is_empty() {
                return Vec::new();
            }
            refs(&pools, |pool| fleets.contains(&pool.spec.pg_bouncer_ref) && is_shut_out(pool))
        }
    }

    /// The certificates of fleets wake the pools in fleets that have one: clients verify them by what is in the pools'
    /// Secrets.
    pub fn of_certificates(&self, fleets: &Cache<PgBouncer>) -> impl Fn(&Secret) -> Wakings + Send + Sync + 'static {
        let (pools, fleets) = (self.pools.clone(), fleets.clone());
        move |secret| {
            if secret.name_any() != POOLER_CERTIFICATES_SECRET {
                return Vec::new();
            }
            refs(&pools, |pool| {
                let fleet = &pool.spec.pg_bouncer_ref;
                let fleet = fleets.get_in(&fleet.namespace, &fleet.name);
                fleet.is_some_and(|fleet| fleet.spec.tls.client.mode != ClientTlsMode::Disable)
            })
        }
    }

    fn leading_to(&self, namespace: String, database: String) -> Wakings {
        let mut by_database = self.by_database.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (namespace, database);
        let Some(names) = by_database.get_mut(&key) else { return Vec::new() };
        names.retain(|name| self.pools.get_in(&key.0, name).is_some_and(|pool| pool.spec.database_ref.name == key.1));
        let wakings = names.iter().map(|name| ObjectRef::new(name).within(&key.0)).collect();
        if names.is_empty() {
            by_database.remove(&key);
        }
        wakings
    }
}

/// The pools that an agent of the fleet refuses, by namespace/name.
fn refused(fleet: &PgBouncer) -> HashSet<&str> {
    reports(fleet).iter().flat_map(|process| &process.refused).map(|refused| refused.pool.as_str()).collect()
}

/// Whether the pool is to be in the fleet. One that is being deleted goes from where it is, whatever its spec says.
fn is_of(pool: &ConnectionPool, fleet: &NamespacedRef) -> bool {
    pool.spec.pg_bouncer_ref == *fleet || (pool.metadata.deletion_timestamp.is_some() && place(pool).fleet == *fleet)
}

/// Whether the pool leaves the fleet, and the next step is its agents' to prove.
fn waits_for_the_end(pool: &ConnectionPool, fleet: &NamespacedRef) -> bool {
    let mut former = former_places(pool).iter().filter(|former| former.place.fleet == *fleet);
    former.any(|former| former.state == FormerState::Draining || waits(pool))
}

fn is_shut_out(pool: &ConnectionPool) -> bool {
    let conditions = pool.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    conditions.iter().any(|condition| condition.type_ == "Stalled" && condition.reason == NO_ROOM)
}

fn waits(pool: &ConnectionPool) -> bool {
    let conditions = pool.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    let route = pool.status.as_ref().and_then(|status| status.route.as_ref());
    pool.metadata.deletion_timestamp.is_some()
        || route.is_some_and(|route| route.retiring.is_some())
        || !conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

fn refs(pools: &Cache<ConnectionPool>, concerned: impl Fn(&ConnectionPool) -> bool) -> Wakings {
    pools.all().iter().filter(|pool| concerned(pool)).map(|pool| ObjectRef::from_obj(&**pool)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ahoi_api::{
        ConnectionPoolSpec, FormerPlace, LocalRef, PgBouncerSpec, PgBouncerStatus, Place, ProcessStatus, RefusedRoute,
    };
    use ahoi_reconcile::Verdict;
    use ahoi_reconcile::testing::{cache, changed, ready, settled};
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    fn reference(name: &str) -> NamespacedRef {
        NamespacedRef { namespace: "ahoi-system".into(), name: name.into() }
    }

    fn pool(name: &str, fleet: &str) -> ConnectionPool {
        let spec = ConnectionPoolSpec {
            database_ref: LocalRef { name: name.into() },
            pg_bouncer_ref: reference(fleet),
            ..ConnectionPoolSpec::default()
        };
        let mut pool = ConnectionPool::new(name, spec);
        pool.metadata.namespace = Some("customer".into());
        pool.metadata.uid = Some(format!("uid-{name}"));
        pool.status = Some(ahoi_api::ConnectionPoolStatus::default());
        pool
    }

    fn leaving(name: &str, fleet: &str, from: &str, state: FormerState) -> ConnectionPool {
        let mut pool = ready(pool(name, fleet));
        let since = Time("2026-01-01T00:00:00Z".parse().unwrap());
        let place = Place { fleet: reference(from), shard: 0 };
        pool.status.as_mut().unwrap().former_places = vec![FormerPlace { place, state, since }];
        pool
    }

    fn fleet(refused: &[&str]) -> PgBouncer {
        let route = |pool: &&str| RefusedRoute { pool: (*pool).into(), reason: "no".into() };
        let refused = refused.iter().map(route).collect();
        let process = ProcessStatus { pod: "global-0".into(), refused, ..ProcessStatus::default() };
        let mut fleet = PgBouncer::new("global", PgBouncerSpec::default());
        fleet.metadata.namespace = Some("ahoi-system".into());
        fleet.status = Some(PgBouncerStatus { processes: vec![process], ..PgBouncerStatus::default() });
        fleet
    }

    fn names(wakings: Wakings) -> Vec<String> {
        let mut names: Vec<String> = wakings.into_iter().map(|waking| waking.name).collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn a_report_wakes_who_waits_who_is_refused_and_who_leaves() {
        let pools = cache([
            ready(pool("content", "global")),
            ready(pool("refused", "global")),
            settled(pool("was-refused", "global"), Verdict::stalled("RouteRefused", "no")),
            settled(pool("shut-out", "global"), Verdict::stalled(NO_ROOM, "no")),
            leaving("leaves", "other", "global", FormerState::Draining),
            leaving("has-time", "other", "global", FormerState::Left),
        ]);
        let wake = Wake::new(&pools);
        let of_fleet = wake.of_fleet();
        assert_eq!(
            names(of_fleet(&fleet(&[]))),
            ["content", "leaves", "refused", "shut-out", "was-refused"],
            "its spec"
        );
        assert_eq!(names(of_fleet(&fleet(&[]))), ["leaves", "was-refused"]);
        let refusing = fleet(&["customer/refused", "customer/has-time"]);
        assert_eq!(names(of_fleet(&refusing)), ["leaves", "refused", "was-refused"]);
    }

    #[test]
    fn who_has_left_makes_room() {
        let shut_out = || settled(pool("shut-out", "global"), Verdict::stalled(NO_ROOM, "no"));
        let pools = cache([shut_out(), ready(pool("content", "global"))]);
        let wake = Wake::new(&pools);
        let of_leaving = wake.of_leaving();
        let none = Vec::<String>::new();
        assert_eq!(names(of_leaving(&ready(pool("a", "other")))), none);
        assert_eq!(names(of_leaving(&leaving("a", "other", "global", FormerState::Left))), none, "it is still there");
        assert_eq!(names(of_leaving(&ready(pool("a", "other")))), ["shut-out"]);
        assert_eq!(names(of_leaving(&ready(pool("a", "other")))), none, "that is known");
        let mut deleted = leaving("b", "other", "global", FormerState::Left);
        deleted.metadata.deletion_timestamp = Some(Time("2026-01-01T00:00:00Z".parse().unwrap()));
        assert_eq!(names(of_leaving(&deleted)), ["shut-out"]);
        changed(&pools, ready(pool("shut-out", "global")));
        assert_eq!(names(of_leaving(&deleted)), none);
    }
}
