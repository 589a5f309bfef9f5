//! Assigns pools to the shards of their fleet. A pool keeps its shard, as clients know the shard's address.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use ahoi_api::{ConnectionPool, NamespacedRef, PgBouncer, PgBouncerSpec, Place, Reason};
use ahoi_pgbouncer::pool::{former_places, place};
use ahoi_reconcile::Error;
use kube::ResourceExt;

/// Number of pools of each shard of a fleet. Empty shards may be missing.
pub type Pools = BTreeMap<i32, usize>;

/// Assignments that no status shows yet. Without them, many new pools at once would all get the same empty shard.
#[derive(Debug, Default)]
pub struct Placements(Mutex<HashMap<String, Place>>);

impl Placements {
    /// The shard of a pool: the one that it has or is still leaving, or else the shard with the fewest pools and free capacity.
    /// Shards with ready processes come first.
    ///
    /// # Errors
    /// When every shard is full.
    pub fn place(
        &self,
        pool: &ConnectionPool,
        fleet: &PgBouncer,
        all: impl FnOnce() -> Vec<Arc<ConnectionPool>>,
        serves: impl Fn(i32) -> bool,
    ) -> Result<Place, Error> {
        let wanted = &pool.spec.pg_bouncer_ref;
        let former = former_places(pool).iter().map(|former| former.place.clone());
        if let Some(place) = assigned(pool).into_iter().chain(former).find(|place| place.fleet == *wanted) {
            return Ok(place);
        }
        let uid = pool.uid().unwrap_or_default();
        let mut placed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        placed.remove(&uid);
        let pools = count(&mut placed, wanted, &all());
        let shard = choose(&fleet.spec, &pools, serves).ok_or_else(|| full(fleet))?;
        let place = Place { fleet: wanted.clone(), shard };
        placed.insert(uid, place.clone());
        Ok(place)
    }

    /// Number of pools of each shard of the fleet, including those that are moving there or away.
    pub fn pools(&self, fleet: &PgBouncer, all: &[Arc<ConnectionPool>]) -> Pools {
        let fleet = NamespacedRef { namespace: fleet.namespace().unwrap_or_default(), name: fleet.name_any() };
        count(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner), &fleet, all)
    }
}

/// Number of shards that a fleet has to run: those in its spec, and those that still have pools.
pub fn running(spec: &PgBouncerSpec, pools: &Pools) -> i32 {
    let last = pools.iter().rev().find(|(_, count)| **count > 0).map_or(0, |(shard, _)| *shard);
    spec.shards.max(last + 1)
}

/// Whether the shard has the maximum number of pools.
pub fn is_full(spec: &PgBouncerSpec, pools: &Pools, shard: i32) -> bool {
    let max = usize::try_from(spec.max_routes_per_shard).unwrap_or_default();
    pools.get(&shard).copied().unwrap_or_default() >= max
}

/// The shard in the status.
fn assigned(pool: &ConnectionPool) -> Option<Place> {
    let status = pool.status.as_ref()?;
    (status.place.is_some() || status.route.is_some()).then(|| place(pool))
}

/// Counts pools, and drops the assignments that are in a status by now or of deleted pools.
fn count(placed: &mut HashMap<String, Place>, fleet: &NamespacedRef, all: &[Arc<ConnectionPool>]) -> Pools {
    let mut pending = HashMap::new();
    let mut pools = Pools::new();
    for pool in all {
        let assigned = assigned(pool);
        let entry = pool.metadata.uid.as_deref().and_then(|uid| placed.remove_entry(uid));
        let place = match entry {
            Some((uid, place)) if assigned.as_ref() != Some(&place) => Some(&*pending.entry(uid).or_insert(place)),
            _ => assigned.as_ref(),
        };
        let former = former_places(pool).iter().map(|former| &former.place);
        for place in former.chain(place).filter(|place| place.fleet == *fleet) {
            *pools.entry(place.shard).or_default() += 1;
        }
    }
    *placed = pending;
    pools
}

fn choose(spec: &PgBouncerSpec, pools: &Pools, serves: impl Fn(i32) -> bool) -> Option<i32> {
    let open = (0..spec.shards).filter(|shard| !is_full(spec, pools, *shard));
    open.min_by_key(|shard| (!serves(*shard), pools.get(shard).copied().unwrap_or_default(), *shard))
}

fn full(fleet: &PgBouncer) -> Error {
    Error::structural(
        Reason::NoFreeCapacity,
        format!(
            "every shard of the PgBouncer {}/{} has spec.maxRoutesPerShard pools. Raise spec.shards of the PgBouncer; no pool \
             moves",
            fleet.namespace().unwrap_or_default(),
            fleet.name_any()
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use ahoi_api::{ConnectionPoolSpec, ConnectionPoolStatus, FormerPlace, FormerState, LocalRef, Route};
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use proptest::prelude::*;

    fn fleet(shards: i32, max_routes_per_shard: i32) -> PgBouncer {
        let spec = PgBouncerSpec { shards, max_routes_per_shard, replicas: 2, ..PgBouncerSpec::default() };
        let mut fleet = PgBouncer::new("global", spec);
        fleet.metadata.namespace = Some("ahoi-system".into());
        fleet
    }

    fn reference(name: &str) -> NamespacedRef {
        NamespacedRef { namespace: "ahoi-system".into(), name: name.into() }
    }

    fn pool(name: &str) -> ConnectionPool {
        let spec = ConnectionPoolSpec {
            database_ref: LocalRef { name: "a".into() },
            pg_bouncer_ref: reference("global"),
            ..ConnectionPoolSpec::default()
        };
        let mut pool = ConnectionPool::new(name, spec);
        pool.metadata.uid = Some(name.into());
        pool
    }

    fn settle(mut pool: ConnectionPool, place: Option<Place>) -> ConnectionPool {
        let route = Some(Route::default());
        pool.status = Some(ConnectionPoolStatus { route, place, ..ConnectionPoolStatus::default() });
        pool
    }

    fn in_shard(name: &str, shard: i32) -> Arc<ConnectionPool> {
        Arc::new(settle(pool(name), Some(Place { fleet: reference("global"), shard })))
    }

    /// Assigns one pool after the other. `written`: their statuses show it.
    fn place_all(fleet: &PgBouncer, names: &[&str], written: bool) -> Vec<Result<i32, String>> {
        let (placements, mut all) = (Placements::default(), Vec::new());
        let mut place = |name: &&str| {
            let mut pool = pool(name);
            all.push(Arc::new(pool.clone()));
            let place = placements.place(&pool, fleet, || all.clone(), |_| true);
            if let (true, Ok(place)) = (written, &place) {
                pool = settle(pool, Some(place.clone()));
                all.pop();
                all.push(Arc::new(pool));
            }
            place.map(|place| place.shard).map_err(|error| error.to_string())
        };
        names.iter().map(&mut place).collect()
    }

    #[test]
    fn the_emptiest_shard_with_free_capacity_is_chosen() {
        for written in [true, false] {
            let placed = place_all(&fleet(2, 2), &["a", "b", "c", "d", "e"], written);
            assert_eq!(placed[..4], [Ok(0), Ok(1), Ok(0), Ok(1)]);
            assert!(placed[4].is_err(), "two shards of two are full");
        }
    }

    #[test]
    fn the_error_of_a_full_fleet_has_a_remedy() {
        insta::assert_snapshot!(full(&fleet(1, 1)), @"every shard of the PgBouncer ahoi-system/global has spec.maxRoutesPerShard pools. Raise spec.shards of the PgBouncer; no pool moves");
    }

    #[test]
    fn a_pool_counts_once() {
        let (placements, fleet) = (Placements::default(), fleet(2, 1));
        let all = vec![Arc::new(pool("a")), Arc::new(pool("b"))];
        let place = |i: usize| placements.place(&all[i], &fleet, || all.clone(), |_| true).map(|place| place.shard);
        assert_eq!([place(0).unwrap(), place(0).unwrap(), place(1).unwrap()], [0, 0, 1]);
        assert_eq!(place(0).unwrap(), 0);
        assert_eq!(placements.pools(&fleet, &all[1..]), [(1, 1)].into(), "a deleted pool does not count");
    }

    #[test]
    fn a_pool_keeps_its_shard() {
        let placements = Placements::default();
        let place = |pool: &ConnectionPool, fleet: &PgBouncer| {
            placements.place(pool, fleet, || panic!("no pool is counted"), |_| false).unwrap().shard
        };
        let all = [in_shard("a", 2), in_shard("b", 0)];
        assert_eq!(place(&all[0], &fleet(3, 1)), 2);
        assert_eq!(place(&all[0], &fleet(1, 1)), 2, "no pool leaves a shard that is removed from the spec");
        assert_eq!(place(&settle(pool("old"), None), &fleet(3, 1)), 0, "a pool from before shards existed");
    }

    #[test]
    fn a_pool_from_another_fleet_gets_a_new_shard() {
        let moving = settle(pool("a"), Some(Place { fleet: reference("other"), shard: 1 }));
        let all = vec![in_shard("b", 1), Arc::new(moving.clone())];
        let place = Placements::default().place(&moving, &fleet(2, 9), || all, |_| true).unwrap();
        assert_eq!(place, Place { fleet: reference("global"), shard: 0 });
    }

    #[test]
    fn a_pool_that_leaves_a_shard_counts_there_and_may_return() {
        let mut leaves = settle(pool("a"), Some(Place { fleet: reference("other"), shard: 0 }));
        leaves.status.as_mut().unwrap().former_places = vec![FormerPlace {
            place: Place { fleet: reference("global"), shard: 1 },
            state: FormerState::Left,
            since: Time("2026-01-01T00:00:00Z".parse().unwrap()),
        }];
        let (placements, fleet) = (Placements::default(), fleet(2, 1));
        let all = vec![in_shard("b", 0), Arc::new(leaves.clone())];
        assert_eq!(placements.pools(&fleet, &all), [(0, 1), (1, 1)].into());
        assert!(placements.place(&pool("new"), &fleet, || all.clone(), |_| true).is_err(), "both shards are full");
        let back = placements.place(&leaves, &fleet, || panic!("no pool is counted"), |_| false).unwrap();
        assert_eq!(back, Place { fleet: reference("global"), shard: 1 });
    }

    #[test]
    fn shards_with_ready_processes_come_first() {
        let pools = [(0, 5), (1, 7)].into();
        let choose = |serving: &[i32]| choose(&fleet(3, 9).spec, &pools, |shard| serving.contains(&shard));
        assert_eq!(choose(&[0, 1, 2]), Some(2));
        assert_eq!(choose(&[0, 1]), Some(0));
        assert_eq!(choose(&[]), Some(2));
    }

    #[test]
    fn a_shard_with_pools_keeps_running() {
        let spec = fleet(2, 9).spec;
        assert_eq!(running(&spec, &Pools::new()), 2);
        assert_eq!(running(&spec, &[(0, 3), (3, 1)].into()), 4);
        assert_eq!(running(&spec, &[(0, 3), (3, 0)].into()), 2);
    }

    proptest! {
        /// No shard exceeds its maximum, and no pool is refused while there is free capacity.
        #[test]
        fn all_pools_that_fit_are_assigned(shards in 1..5_i32, max in 1..6_i32, count in 0..24_usize, written: bool) {
            let names: Vec<String> = (0..count).map(|i| i.to_string()).collect();
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            let placed = place_all(&fleet(shards, max), &names, written);
            let capacity = usize::try_from(shards * max).unwrap();
            prop_assert_eq!(placed.iter().filter(|place| place.is_ok()).count(), count.min(capacity));
            let mut pools = Pools::new();
            for shard in placed.into_iter().flatten() {
                *pools.entry(shard).or_default() += 1;
            }
            prop_assert!(pools.values().all(|count| i32::try_from(*count).unwrap() <= max));
            let (least, most) = (pools.values().min(), pools.values().max());
            prop_assert!(most.zip(least).is_none_or(|(most, least)| most - least <= 1));
        }
    }
}
