//! Which routes of a snapshot of ConnectionPools are loaded.
//!
//! A reload without an entry disconnects its clients at once, even in the middle of a transaction. So a loaded route stays
//! until there is evidence that it was deleted. If many routes are missing without such evidence, they are all kept.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use ahoi_api::{Passwords, PoolerLogin, RefusedRoute, Route};

use super::validate::{is_word, validate};
use super::{FileLogins, Poolers, Verifiers};
use crate::pool::Pool;

/// What an agent knows apart from the snapshot.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// The loaded routes by namespace/name of the pool; `None` before the first load.
    pub loaded: Option<BTreeMap<String, Route>>,
    /// Pools that were being deleted or moving away when last seen.
    pub left: BTreeSet<String>,
    /// Recent routes of pools that vanished without having been in `left`.
    pub lost: BTreeMap<String, Route>,
    /// The login for auth_query on each server.
    pub poolers: Poolers,
    /// The verifiers of logins on servers without lookup.
    pub verifiers: Verifiers,
    /// The logins that pgbouncer has read from its auth_file, and will not look up.
    pub file_logins: FileLogins,
}

/// The routes to load.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The routes by namespace/name of the pool. No two have the same database name.
    pub routes: BTreeMap<String, Route>,
    /// Why routes are left out or kept as they were, ordered by pool.
    pub refused: Vec<RefusedRoute>,
    /// Routes that are removed although their pools vanished without a deletion: there are few of them.
    pub lost: BTreeMap<String, Route>,
    /// Number of routes that are kept because too many vanished.
    pub kept: usize,
}

/// A new process would serve so much less than the others that it must not begin to serve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Implausible {
    /// Number of missing routes.
    pub missing: usize,
    /// Number of routes that other processes have proved.
    pub of: usize,
}

/// The error while routes of vanished pools are kept.
pub const KEPT: &str = "many ConnectionPools vanished without having been deleted first. Their \
    routes are kept until the pools are back; delete this pod to accept the loss";

impl fmt::Display for Implausible {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "too many of the routes that other processes serve cannot be loaded, so this process does not begin to serve",
        )
    }
}

/// Decides which routes of `pools` to load.
///
/// # Errors
/// When this is the first plan, and many routes that other processes have proved are missing.
pub fn plan(pools: &[Pool], known: &Known) -> Result<Plan, Implausible> {
    let mut plan = Plan::default();
    let mut taken: BTreeMap<&str, &str> = BTreeMap::new();
    let mut logins: BTreeMap<&str, &str> = BTreeMap::new();
    for pool in oldest_first(pools) {
        let Some(wanted) = &pool.route else { continue };
        let before = known.loaded.as_ref().and_then(|loaded| loaded.get(&pool.key));
        let checked = validate(wanted).and_then(|()| reachable(wanted, known, &mut logins));
        let route = match &checked {
            Ok(()) => Some(wanted),
            // The loaded route stays until the new one is corrected.
            Err(_) => before,
        };
        let clash = route.and_then(|route| taken.get(route.database.as_str()));
        let problem = match (checked, clash) {
            (Err(problem), _) => Some(problem),
            (Ok(()), Some(other)) => Some(format!("the ConnectionPool {other} already has a database of this name")),
            (Ok(()), None) => None,
        };
        if let Some(reason) = problem {
            plan.refused.push(RefusedRoute { pool: pool.key.clone(), reason });
        }
        if let (Some(route), None) = (route, clash) {
            taken.insert(&route.database, &pool.key);
            plan.routes.insert(pool.key.clone(), route.clone());
        }
    }
    plan.refused.sort_by(|a, b| a.pool.cmp(&b.pool));
    let (lost, promised) = lost(&plan, pools, known);
    let remembered = |key: &String| {
        let loaded = known.loaded.as_ref().and_then(|loaded| loaded.get(key));
        Some((key.clone(), loaded.or_else(|| known.lost.get(key))?.clone()))
    };
    if lost.len() <= (promised / 5).max(10) {
        plan.lost = lost.iter().filter_map(remembered).collect();
        return Ok(plan);
    }
    if known.loaded.is_none() {
        return Err(Implausible { missing: lost.len(), of: promised });
    }
    // Routes that were removed before come back, too: pools may vanish in several waves.
    let names: BTreeSet<String> = plan.routes.values().map(|route| route.database.clone()).collect();
    let kept = lost.iter().filter_map(remembered).filter(|(_, route)| !names.contains(&route.database));
    let kept: Vec<_> = kept.collect();
    plan.kept = kept.len();
    plan.routes.extend(kept);
    Ok(plan)
}

/// In every agent, the older of two pools gets the database name.
fn oldest_first(pools: &[Pool]) -> Vec<&Pool> {
    let mut pools: Vec<&Pool> = pools.iter().collect();
    pools.sort_by(|a, b| (a.created, &a.key).cmp(&(b.created, &b.key)));
    pools
}

/// pgbouncer has one password for each login name, whatever the server.
fn reachable<'a>(route: &'a Route, known: &'a Known, logins: &mut BTreeMap<&'a str, &'a str>) -> Result<(), String> {
    if route.passwords == Passwords::File {
        return known.verifiers.check(route);
    }
    let Some(login) = known.poolers.get(&route.server).filter(|login| is_login(login)) else {
        return Err(format!(
            "the Secret {} has no login for the DatabaseServer {} yet",
            ahoi_api::POOLER_AUTH_SECRET,
            route.server
        ));
    };
    let first = logins.entry(&login.name).or_insert(&login.password);
    if *first != login.password {
        return Err(format!("the login {} has a different password on another DatabaseServer", login.name));
    }
    known.file_logins.check(route, &known.verifiers)
}

/// Whether the login needs no quoting in a route, and fits into one line and the buffer of pgbouncer's auth_file.
#[must_use]
pub fn is_login(login: &PoolerLogin) -> bool {
    let password = &login.password;
    is_word(&login.name) && (1..=1024).contains(&password.len()) && !password.chars().any(char::is_control)
}

/// The routes that are missing without evidence of a deletion, and how many there should be.
fn lost(plan: &Plan, pools: &[Pool], known: &Known) -> (BTreeSet<String>, usize) {
    let promised: BTreeSet<&str> = match &known.loaded {
        // Recently lost routes count again: pools may vanish in several waves.
        Some(loaded) => loaded.keys().chain(known.lost.keys()).map(String::as_str).collect(),
        None => pools.iter().filter(|pool| pool.ready && pool.route.is_some()).map(|pool| pool.key.as_str()).collect(),
    };
    let leaving: BTreeSet<&str> = pools.iter().filter(|pool| pool.leaving).map(|pool| pool.key.as_str()).collect();
    let is_expected = |key: &str| plan.routes.contains_key(key) || leaving.contains(key) || known.left.contains(key);
    (promised.iter().filter(|key| !is_expected(key)).map(|key| (*key).to_owned()).collect(), promised.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{VERIFIER, file_route, pool, poolers, route};
    use ahoi_api::PoolState;
    use proptest::prelude::*;

    fn known() -> Known {
        Known { poolers: poolers(), ..Known::default() }
    }

    fn many(count: usize) -> Vec<Pool> {
        (0..count).map(|i| pool(&format!("c_{i}"), i64::try_from(i).unwrap() + 1)).collect()
    }

    fn after(pools: &[Pool]) -> Known {
        Known { loaded: Some(plan(pools, &known()).unwrap().routes), ..known() }
    }

    #[test]
    fn an_invalid_route_is_refused_and_the_others_are_loaded() {
        let mut bad = pool("b", 2);
        bad.route = Some(Route { host: "a b".into(), ..route("b") });
        let plan = plan(&[pool("a", 1), bad, pool("c", 3)], &known()).unwrap();
        assert_eq!(plan.routes.len(), 2);
        insta::assert_debug_snapshot!(plan.refused, @r#"
        [
            RefusedRoute {
                pool: "customer-b/main",
                reason: "route.host must be a host name or an address",
            },
        ]
        "#);
    }

    #[test]
    fn a_loaded_route_stays_while_its_change_is_refused() {
        let before = after(&[pool("a", 1)]);
        let mut worse = pool("a", 2);
        worse.route = Some(Route { port: 0, ..route("a") });
        let plan = plan(&[worse], &before).unwrap();
        assert_eq!(plan.routes["customer-a/main"], route("a"));
        assert_eq!(plan.refused[0].pool, "customer-a/main");
    }

    #[test]
    fn the_oldest_pool_gets_the_database_name() {
        let mut younger = pool("a", 9);
        younger.key = "aaa/main".into();
        let plan = plan(&[younger, pool("a", 1)], &known()).unwrap();
        assert_eq!(plan.routes.keys().collect::<Vec<_>>(), ["customer-a/main"]);
        assert_eq!(plan.refused[0].reason, "the ConnectionPool customer-a/main already has a database of this name");
    }

    #[test]
    fn without_a_login_no_route_is_added_or_removed() {
        let pools = [pool("a", 1), pool("b", 2)];
        let forgetful = Known { poolers: Poolers::new(), ..after(&pools[..1]) };
        let plan = plan(&pools, &forgetful).unwrap();
        assert_eq!(plan.routes.keys().collect::<Vec<_>>(), ["customer-a/main"]);
        assert_eq!(plan.refused.len(), 2);
    }

    #[test]
    fn a_route_with_file_passwords_needs_a_verifier() {
        let mut pool = pool("a", 1);
        pool.route = Some(file_route("a"));
        let mut known = Known { poolers: Poolers::new(), ..known() };
        let refused = &plan(std::slice::from_ref(&pool), &known).unwrap().refused;
        assert_eq!(refused[0].reason, "the Secret ahoi-verifiers-2 has no verifier of the login a_a yet");
        known.verifiers.update([("a_a".to_owned(), VERIFIER.to_owned())], []);
        let plan = plan(&[pool], &known).unwrap();
        assert_eq!((plan.routes.len(), plan.refused.len()), (1, 0));
    }

    /// When the admin role of a server loses its rights, clients are served as before until the verifiers are known.
    #[test]
    fn a_route_that_looks_up_stays_until_the_verifier_is_known() {
        let before = after(&[pool("a", 1)]);
        let mut now = pool("a", 2);
        now.route = Some(file_route("a"));
        let plan = plan(&[now], &before).unwrap();
        assert_eq!(plan.routes["customer-a/main"], route("a"));
    }

    #[test]
    fn one_login_with_two_passwords_is_refused() {
        let mut other = pool("b", 2);
        other.route = Some(Route { server: "pg-eu-2".into(), ..route("b") });
        let mut known = known();
        known
            .poolers
            .insert("pg-eu-2".into(), PoolerLogin { password: "another".into(), ..poolers()["pg-eu-1"].clone() });
        let plan = plan(&[pool("a", 1), other], &known).unwrap();
        assert_eq!(
            plan.refused[0].reason,
            "the login ahoi_pooler_1_a has a different password on another DatabaseServer"
        );
    }

    #[test]
    fn a_login_that_pgbouncer_could_misread_is_ignored() {
        for (name, password) in [("a'b", "x"), ("a b", "x"), ("a", ""), ("a", "x\ny")] {
            let login = PoolerLogin { name: name.into(), password: password.into() };
            let known = Known { poolers: [("pg-eu-1".to_owned(), login)].into(), ..after(&[]) };
            let plan = plan(&[pool("a", 1)], &known).unwrap();
            assert_eq!(
                plan.refused[0].reason,
                "the Secret ahoi-pooler-auth has no login for the DatabaseServer pg-eu-1 yet"
            );
        }
    }

    #[test]
    fn routes_are_kept_when_many_pools_vanish() {
        let pools = many(100);
        let known = after(&pools);
        let some = plan(&pools[..80], &known).unwrap();
        assert_eq!((some.routes.len(), some.lost.len(), some.kept), (80, 20, 0));
        let mut fewer = pools[..79].to_vec();
        fewer.push(pool("new", 1000));
        let kept = plan(&fewer, &known).unwrap();
        assert_eq!((kept.routes.len(), kept.lost.len(), kept.kept), (101, 0, 21), "new routes are loaded all the same");
        assert_eq!(plan(&[], &known).unwrap().kept, 100);
    }

    #[test]
    fn routes_come_back_when_pools_vanish_in_several_waves() {
        let pools = many(100);
        let mut known = after(&pools);
        for (left, loaded) in [(95, 95), (90, 90), (85, 85), (80, 80), (75, 100), (70, 100)] {
            let plan = plan(&pools[..left], &known).unwrap();
            assert_eq!(plan.routes.len(), loaded);
            known.loaded = Some(plan.routes);
            known.lost = plan.lost;
        }
        let back = plan(&pools, &known).unwrap();
        assert_eq!((back.routes.len(), back.lost.len(), back.kept), (100, 0, 0));
    }

    #[test]
    fn a_new_pool_replaces_a_kept_route_of_its_name() {
        let pools = many(100);
        let mut successor = pool("c_99", 1000);
        successor.key = "elsewhere/main".into();
        let plan = plan(&[successor], &after(&pools)).unwrap();
        assert_eq!((plan.routes.len(), plan.kept), (100, 99));
        assert!(plan.routes.contains_key("elsewhere/main"));
    }

    #[test]
    fn routes_of_deleted_pools_are_removed() {
        let mut pools = many(100);
        let mut known = after(&pools);
        for pool in &mut pools[50..] {
            pool.leaving = true;
            pool.route = None;
        }
        assert_eq!(plan(&pools, &known).unwrap().routes.len(), 50);
        known.left = pools[50..].iter().map(|pool| pool.key.clone()).collect();
        assert_eq!(plan(&pools[..50], &known).unwrap().routes.len(), 50);
    }

    #[test]
    fn a_route_that_moves_away_is_loaded_until_it_is_drained() {
        let before = after(&[pool("a", 1)]);
        let mut leaves = pool("a", 2);
        leaves.leaving = true;
        leaves.route = Some(Route { state: PoolState::Disabled, ..route("a") });
        let drains = plan(std::slice::from_ref(&leaves), &before).unwrap();
        assert_eq!(drains.routes["customer-a/main"].state, PoolState::Disabled);
        let gone = Pool { here: false, route: None, ..leaves };
        let after = plan(&[gone], &Known { loaded: Some(drains.routes), ..known() }).unwrap();
        assert_eq!((after.routes.len(), after.lost.len(), after.kept), (0, 0, 0));
    }

    #[test]
    fn a_new_process_without_logins_does_not_begin_to_serve() {
        let fresh = Known { poolers: Poolers::new(), ..known() };
        assert_eq!(plan(&many(50), &fresh), Err(Implausible { missing: 50, of: 50 }));
        assert!(plan(&many(50), &known()).is_ok());
        assert!(plan(&[], &fresh).is_ok(), "a fleet without pools is ready");
    }

    proptest! {
        /// Every pool with a route is loaded or refused, and no database name is loaded twice.
        #[test]
        fn nothing_is_forgotten(databases in prop::collection::vec("[a-c*]{1,2}", 0..12), loaded in 0usize..12) {
            let pools: Vec<Pool> = databases
                .iter()
                .enumerate()
                .map(|(i, name)| Pool { key: format!("ns/{i}"), ..pool(name, i64::try_from(i).unwrap()) })
                .collect();
            let known = Known { loaded: Some(plan(&pools[..loaded.min(pools.len())], &Known { loaded: Some(BTreeMap::new()), ..known() }).unwrap().routes), ..known() };
            let plan = plan(&pools, &known).unwrap();
            for pool in &pools {
                prop_assert!(plan.routes.contains_key(&pool.key) || plan.refused.iter().any(|refused| refused.pool == pool.key));
            }
            let names: BTreeSet<&str> = plan.routes.values().map(|route| route.database.as_str()).collect();
            prop_assert_eq!(names.len(), plan.routes.len());
            prop_assert!(plan.routes.values().all(|route| validate(route).is_ok()));
        }
    }
}
