//! Which pools a change of another object triggers. All of it from memory.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use ahoi_api::{
    ClientTlsMode, ConnectionPool, Database, DatabaseServer, FormerState, NamespacedRef, POOLER_CERTIFICATES_SECRET,
    PgBouncer, Reason,
};
use ahoi_pgbouncer::fleet::reports;
use ahoi_pgbouncer::pool::{former_places, key, place};
use ahoi_reconcile::conditions::{READY, is_true};
use ahoi_reconcile::{Cache, ObjectRef};
use k8s_openapi::api::core::v1::Secret;
use kube::{Resource, ResourceExt};
use parking_lot::Mutex;

type Triggered = Vec<ObjectRef<ConnectionPool>>;

/// The pools, indexed by their database.
#[derive(Clone)]
pub struct Triggers {
    pools: Cache<ConnectionPool>,
    by_database: Arc<Mutex<ByDatabase>>,
}

/// Names of pools by the namespace and the name of their database. It may contain pools that were deleted or use another
/// database by now: a reader has to compare with the cache.
type ByDatabase = HashMap<(String, String), HashSet<String>>;

impl Triggers {
    pub fn new(pools: &Cache<ConnectionPool>) -> Self {
        Triggers { pools: pools.clone(), by_database: Arc::default() }
    }

    /// Maintains the index; triggers nothing.
    pub fn index(&self) -> impl Fn(&ConnectionPool) -> Triggered + Send + Sync + 'static {
        let by_database = self.by_database.clone();
        move |pool| {
            let key = (pool.namespace().unwrap_or_default(), pool.spec.database_ref.name.clone());
            by_database.lock().entry(key).or_default().insert(pool.name_any());
            Vec::new()
        }
    }

    /// A Database triggers the pools that use it.
    pub fn of_database(&self) -> impl Fn(&Database) -> Triggered + Send + Sync + 'static {
        let triggers = self.clone();
        move |database| triggers.with_database(database.namespace().unwrap_or_default(), database.name_any())
    }

    /// A Database's Secret triggers the pools that use the Database.
    pub fn of_secret(&self) -> impl Fn(&Secret) -> Triggered + Send + Sync + 'static {
        let triggers = self.clone();
        move |secret| {
            let owners = secret.owner_references().iter().filter(|owner| owner.kind == Database::kind(&()));
            let namespace = secret.namespace().unwrap_or_default();
            owners.flat_map(|owner| triggers.with_database(namespace.clone(), owner.name.clone())).collect()
        }
    }

    /// A DatabaseServer triggers the pools that use it or wait for one. It changes rarely, so this goes through all pools.
    pub fn of_server(&self) -> impl Fn(&DatabaseServer) -> Triggered + Send + Sync + 'static {
        let pools = self.pools.clone();
        move |server| {
            let name = server.name_any();
            let route = |pool: &ConnectionPool| {
                pool.status.as_ref().and_then(|status| status.route.as_ref()).map(|route| route.server == name)
            };
            refs(&pools, |pool| route(pool).unwrap_or(true))
        }
    }

    /// A PgBouncer triggers those of its pools that wait for its agents or are refused by them, and those that are leaving it.
    /// A changed spec triggers all of its pools.
    pub fn of_fleet(&self) -> impl Fn(&PgBouncer) -> Triggered + Send + Sync + 'static {
        let pools = self.pools.clone();
        let generations: Mutex<HashMap<String, i64>> = Mutex::default();
        move |fleet| {
            let this = NamespacedRef { namespace: fleet.namespace().unwrap_or_default(), name: fleet.name_any() };
            let refused = refused(fleet);
            let generation = fleet.metadata.generation.unwrap_or_default();
            let mut generations = generations.lock();
            let is_changed = generations.insert(fleet.uid().unwrap_or_default(), generation) != Some(generation);
            refs(&pools, |pool| {
                let is_refused = || !refused.is_empty() && refused.contains(key(pool).as_str());
                let own = is_changed || (waits(pool) && !has_no_place(pool)) || is_refused();
                (own && is_of(pool, &this)) || waits_for_the_end(pool, &this)
            })
        }
    }

    /// A pool that leaves a fleet or is deleted triggers those that found no free capacity there.
    pub fn of_leaving(&self) -> impl Fn(&ConnectionPool) -> Triggered + Send + Sync + 'static {
        let pools = self.pools.clone();
        // The fleets that pools were leaving when they were last seen.
        let seen: Mutex<HashMap<String, Vec<NamespacedRef>>> = Mutex::default();
        move |leaving| {
            let former = former_places(leaving).iter().map(|former| former.place.fleet.clone());
            let mut fleets: Vec<NamespacedRef> = former.collect();
            let (uid, goes) = (leaving.uid().unwrap_or_default(), leaving.metadata.deletion_timestamp.is_some());
            let mut seen = seen.lock();
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
            refs(&pools, |pool| fleets.contains(&pool.spec.pg_bouncer_ref) && has_no_place(pool))
        }
    }

    /// The certificates of fleets trigger the pools of fleets with TLS: the pools' Secrets contain the authorities.
    pub fn of_certificates(&self, fleets: &Cache<PgBouncer>) -> impl Fn(&Secret) -> Triggered + Send + Sync + 'static {
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

    fn with_database(&self, namespace: String, database: String) -> Triggered {
        let mut by_database = self.by_database.lock();
        let key = (namespace, database);
        let Some(names) = by_database.get_mut(&key) else { return Vec::new() };
        names.retain(|name| self.pools.get_in(&key.0, name).is_some_and(|pool| pool.spec.database_ref.name == key.1));
        let triggered = names.iter().map(|name| ObjectRef::new(name).within(&key.0)).collect();
        if names.is_empty() {
            by_database.remove(&key);
        }
        triggered
    }
}

/// The pools that an agent of the fleet refuses, by namespace/name.
fn refused(fleet: &PgBouncer) -> HashSet<&str> {
    reports(fleet).iter().flat_map(|process| &process.refused).map(|refused| refused.pool.as_str()).collect()
}

/// Whether the fleet is the pool's. A pool that is being deleted belongs to the fleet that serves it, whatever its spec says.
fn is_of(pool: &ConnectionPool, fleet: &NamespacedRef) -> bool {
    pool.spec.pg_bouncer_ref == *fleet || (pool.metadata.deletion_timestamp.is_some() && place(pool).fleet == *fleet)
}

/// Whether the pool leaves the fleet, and its agents have to prove the next step.
fn waits_for_the_end(pool: &ConnectionPool, fleet: &NamespacedRef) -> bool {
    let mut former = former_places(pool).iter().filter(|former| former.place.fleet == *fleet);
    former.any(|former| former.state == FormerState::Draining || waits(pool))
}

fn has_no_place(pool: &ConnectionPool) -> bool {
    let conditions = pool.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    conditions.iter().any(|condition| condition.type_ == "Stalled" && condition.reason == Reason::NoFreeCapacity)
}

fn waits(pool: &ConnectionPool) -> bool {
    let conditions = pool.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    let route = pool.status.as_ref().and_then(|status| status.route.as_ref());
    pool.metadata.deletion_timestamp.is_some()
        || route.is_some_and(|route| route.retiring.is_some())
        || !is_true(conditions, READY)
}

fn refs(pools: &Cache<ConnectionPool>, concerned: impl Fn(&ConnectionPool) -> bool) -> Triggered {
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

    fn names(triggered: Triggered) -> Vec<String> {
        let mut names: Vec<String> = triggered.into_iter().map(|object| object.name).collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn a_report_triggers_pools_that_wait_are_refused_or_leave() {
        let pools = cache([
            ready(pool("content", "global")),
            ready(pool("refused", "global")),
            settled(pool("was-refused", "global"), Verdict::stalled(Reason::RouteRefused, "no")),
            settled(pool("no-room", "global"), Verdict::stalled(Reason::NoFreeCapacity, "no")),
            leaving("leaves", "other", "global", FormerState::Draining),
            leaving("has-time", "other", "global", FormerState::Left),
        ]);
        let triggers = Triggers::new(&pools);
        let of_fleet = triggers.of_fleet();
        assert_eq!(
            names(of_fleet(&fleet(&[]))),
            ["content", "leaves", "no-room", "refused", "was-refused"],
            "a changed spec"
        );
        assert_eq!(names(of_fleet(&fleet(&[]))), ["leaves", "was-refused"]);
        let refusing = fleet(&["customer/refused", "customer/has-time"]);
        assert_eq!(names(of_fleet(&refusing)), ["leaves", "refused", "was-refused"]);
    }

    #[test]
    fn a_pool_that_left_triggers_those_without_a_place() {
        let no_room = || settled(pool("no-room", "global"), Verdict::stalled(Reason::NoFreeCapacity, "no"));
        let pools = cache([no_room(), ready(pool("content", "global"))]);
        let triggers = Triggers::new(&pools);
        let of_leaving = triggers.of_leaving();
        let none = Vec::<String>::new();
        assert_eq!(names(of_leaving(&ready(pool("a", "other")))), none);
        assert_eq!(names(of_leaving(&leaving("a", "other", "global", FormerState::Left))), none, "it is still there");
        assert_eq!(names(of_leaving(&ready(pool("a", "other")))), ["no-room"]);
        assert_eq!(names(of_leaving(&ready(pool("a", "other")))), none, "once");
        let mut deleted = leaving("b", "other", "global", FormerState::Left);
        deleted.metadata.deletion_timestamp = Some(Time("2026-01-01T00:00:00Z".parse().unwrap()));
        assert_eq!(names(of_leaving(&deleted)), ["no-room"]);
        changed(&pools, ready(pool("no-room", "global")));
        assert_eq!(names(of_leaving(&deleted)), none);
    }
}
