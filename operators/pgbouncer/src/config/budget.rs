//! The number of server connections of each route, so that all routes together never exceed the connections of the server.
//!
//! pgbouncer limits the connections to a database, not those to a server. Without a budget, one customer would use the
//! connections that were promised to another, and PostgreSQL would refuse the last one.
//!
//! A process gets a share of the server's connections in proportion to the number of its routes to that server. Each route
//! gets the pool size that it asks for, if all of them fit. Otherwise there is a maximum for all routes, at least 1: routes
//! that ask for less keep what they ask for.

use std::collections::{BTreeMap, BTreeSet};

use ahoi_api::Route;

use super::render::AUTH_POOL;

/// The connection of the agent itself to each server.
const AGENT: i64 = 1;

/// The connections of one server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Connections for all pgbouncer processes, overcommitment included.
    pub connections: i64,
    /// Number of routes to the server, of all fleets.
    pub routes: i64,
    /// Number of processes that have the same routes as this one, itself included.
    pub processes: i64,
}

impl Budget {
    /// Connections of one process for `own` routes, without those for auth_query and of the agent.
    fn of_process(self, own: usize) -> i64 {
        let own = i64::try_from(own).unwrap_or(i64::MAX);
        let share = self.connections.saturating_mul(own) / (self.routes.max(own).max(1) * self.processes.max(1));
        share - i64::from(AUTH_POOL) - AGENT
    }
}

/// The routes with their share of the connections.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shares {
    /// Routes by namespace/name of the pool.
    pub routes: BTreeMap<String, Route>,
    /// Servers with fewer connections than routes.
    pub overcommitted: Vec<String>,
}

/// Gives each route its share. If the budget of a server is unknown, its routes get what they ask for.
#[must_use]
pub fn share(routes: &BTreeMap<String, Route>, budgets: &BTreeMap<String, Budget>) -> Shares {
    let mut shares = Shares { routes: routes.clone(), overcommitted: Vec::new() };
    let servers: BTreeSet<&str> = routes.values().map(|route| route.server.as_str()).collect();
    for server in servers {
        let Some(budget) = budgets.get(server) else { continue };
        let own = || routes.values().filter(|route| route.server == server);
        let level = level(own().map(|route| route.pool_size), budget.of_process(own().count()));
        if level.is_none() {
            shares.overcommitted.push(server.to_owned());
        }
        for route in shares.routes.values_mut().filter(|route| route.server == server) {
            route.pool_size = route.pool_size.min(level.unwrap_or(1));
        }
    }
    shares
}

/// The largest maximum with which `sizes` fit into the budget; none if even 1 is too large.
fn level(sizes: impl Iterator<Item = i32>, budget: i64) -> Option<i32> {
    let mut sizes: Vec<i32> = sizes.collect();
    sizes.sort_unstable();
    let mut rest = budget;
    for (done, size) in sizes.iter().enumerate() {
        let fair = rest / i64::try_from(sizes.len() - done).unwrap_or(i64::MAX);
        if i64::from(*size) > fair {
            // The smaller ones have got their size; the others share the rest equally.
            return i32::try_from(fair).ok().filter(|fair| *fair >= 1);
        }
        rest -= i64::from(*size);
    }
    Some(i32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::route;
    use proptest::prelude::*;

    fn routes(sizes: &[i32]) -> BTreeMap<String, Route> {
        let routes = sizes.iter().enumerate();
        routes.map(|(i, size)| (format!("ns/{i}"), Route { pool_size: *size, ..route(&format!("c_{i}")) })).collect()
    }

    fn budget(connections: i64, routes: i64, processes: i64) -> BTreeMap<String, Budget> {
        BTreeMap::from([("pg-eu-1".to_owned(), Budget { connections, routes, processes })])
    }

    fn sizes(shares: &Shares) -> Vec<i32> {
        shares.routes.values().map(|route| route.pool_size).collect()
    }

    #[test]
    fn small_pools_get_their_size_and_the_others_an_equal_share() {
        let all = routes(&[8, 2, 50, 8]);
        assert_eq!(sizes(&share(&all, &budget(1000, 4, 2))), [8, 2, 50, 8]);
        // 68 + 4 + 1 for each of 2 processes.
        assert_eq!(sizes(&share(&all, &budget(146, 4, 2))), [8, 2, 50, 8], "to the last connection");
        assert_eq!(sizes(&share(&all, &budget(145, 4, 2))), [8, 2, 49, 8]);
        assert_eq!(sizes(&share(&all, &budget(42, 4, 2))), [4, 2, 4, 4]);
        assert_eq!(sizes(&share(&all, &BTreeMap::new())), [8, 2, 50, 8], "unknown");
    }

    #[test]
    fn routes_of_other_fleets_count() {
        assert_eq!(sizes(&share(&routes(&[20, 20]), &budget(105, 10, 1))), [8, 8]);
        assert_eq!(sizes(&share(&routes(&[20, 20]), &budget(100, 1, 1))), [20, 20], "it has more than are counted");
    }

    #[test]
    fn every_route_gets_a_connection_and_overcommitment_is_reported() {
        let shares = share(&routes(&[8, 8, 8]), &budget(15, 3, 2));
        assert_eq!((sizes(&shares), shares.overcommitted), (vec![1, 1, 1], vec!["pg-eu-1".to_owned()]));
        let shares = share(&routes(&[8, 8, 8]), &budget(16, 3, 2));
        assert_eq!((sizes(&shares), shares.overcommitted), (vec![1, 1, 1], vec![]));
        assert!(share(&BTreeMap::new(), &budget(0, 0, 1)).overcommitted.is_empty());
    }

    #[test]
    fn other_servers_are_unchanged() {
        let mut all = routes(&[8, 8]);
        all.insert("ns/other".into(), Route { server: "pg-eu-2".into(), ..route("c_other") });
        assert_eq!(sizes(&share(&all, &budget(7, 2, 1))), [1, 1, 8]);
    }

    proptest! {
        /// All processes of all fleets together stay within the budget. No route gets more than it asks for, and each gets at least
        /// one connection. A route that gets less than it asks for gets as much as any other, and one more for each would not fit.
        #[test]
        fn the_budget_is_kept_and_used(
            fleets in prop::collection::vec((prop::collection::vec(1i32..60, 1..12), 1i64..5), 1..4),
            connections in 0i64..2000,
        ) {
            let total = fleets.iter().map(|(sizes, _)| i64::try_from(sizes.len()).unwrap()).sum::<i64>();
            let (mut opened, mut fits) = (0, true);
            for (asked, processes) in &fleets {
                let budget = Budget { connections, routes: total, processes: *processes };
                let shares = share(&routes(asked), &BTreeMap::from([("pg-eu-1".to_owned(), budget)]));
                let all = routes(asked);
                let pairs: Vec<(i32, i32)> =
                    shares.routes.iter().map(|(key, route)| (all[key].pool_size, route.pool_size)).collect();
                let most = pairs.iter().map(|(_, has)| *has).max().unwrap();
                prop_assert!(pairs.iter().all(|(wants, has)| (1..=*wants).contains(has) && (has == wants || *has == most)));
                let sum: i64 = pairs.iter().map(|(_, has)| i64::from(*has)).sum();
                let less = pairs.iter().filter(|(wants, has)| has < wants).count();
                let mine = budget.of_process(asked.len());
                if shares.overcommitted.is_empty() {
                    prop_assert!(sum <= mine);
                    prop_assert!(less == 0 || sum + i64::try_from(less).unwrap() > mine);
                } else {
                    prop_assert_eq!(most, 1);
                    fits = false;
                }
                opened += processes * (sum + i64::from(AUTH_POOL) + AGENT);
            }
            prop_assert!(!fits || opened <= connections);
        }
    }
}
