//! The connections of each DatabaseServer, and the share of this process.

use std::collections::BTreeMap;
use std::sync::Arc;

use ahoi_api::{ConnectionPool, DatabaseServer, PgBouncer, Route};
use ahoi_pgbouncer::config::{Budget, Shares, share};
use ahoi_pgbouncer::fleet;
use ahoi_reconcile::Cache;
use kube::ResourceExt;

/// The servers, and their last known number of connections.
pub struct Budgets {
    servers: Cache<DatabaseServer>,
    /// Includes deleted DatabaseServers: their PostgreSQL servers have no more connections than before.
    known: BTreeMap<String, i64>,
}

impl Budgets {
    pub fn new(servers: Cache<DatabaseServer>) -> Self {
        Budgets { servers, known: BTreeMap::new() }
    }

    /// Gives each of the `routes` of this process in `shard` of `fleet` its share of the connections. The `pools` of all fleets count.
    pub fn share(
        &mut self,
        fleet: &PgBouncer,
        shard: i32,
        routes: &BTreeMap<String, Route>,
        pools: &[Arc<ConnectionPool>],
    ) -> Shares {
        for server in self.servers.all() {
            if let Some(connections) = server.pooler_connections() {
                self.known.insert(server.name_any(), connections);
            }
        }
        share(routes, &budgets(&self.known, fleet, shard, pools))
    }
}

/// The budget of each server.
fn budgets(
    known: &BTreeMap<String, i64>,
    fleet: &PgBouncer,
    shard: i32,
    pools: &[Arc<ConnectionPool>],
) -> BTreeMap<String, Budget> {
    let mut counts: BTreeMap<&str, i64> = BTreeMap::new();
    for status in pools.iter().filter_map(|pool| pool.status.as_ref()) {
        let Some(route) = &status.route else { continue };
        // A pool that moves has connections in each of its shards.
        let places = 1 + i64::try_from(status.former_places.len()).unwrap_or_default();
        *counts.entry(&route.server).or_default() += places;
    }
    let percent = i64::from(fleet.spec.connection_budget.overcommit_percent);
    let processes = fleet::processes(fleet, shard);
    let budgets = known.iter().map(|(server, connections)| {
        let connections = connections.saturating_mul(percent) / 100;
        let routes = counts.get(server.as_str()).copied().unwrap_or_default();
        (server.clone(), Budget { connections, routes, processes })
    });
    budgets.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ahoi_api::{
        ConnectionBudget, ConnectionPoolSpec, ConnectionPoolStatus, FormerPlace, FormerState, LocalRef, NamespacedRef,
        PgBouncerSpec, Place,
    };
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    fn pool(fleet: &str, server: Option<&str>) -> Arc<ConnectionPool> {
        let spec: ConnectionPoolSpec = serde_json::from_value(serde_json::json!({
            "databaseRef": LocalRef { name: "a".into() },
            "pgBouncerRef": NamespacedRef { namespace: "ahoi-system".into(), name: fleet.into() },
        }))
        .unwrap();
        let mut pool = ConnectionPool::new("a", spec);
        let route = server.map(|server| Route { server: server.into(), ..Route::default() });
        pool.status = Some(ConnectionPoolStatus { route, ..ConnectionPoolStatus::default() });
        Arc::new(pool)
    }

    #[test]
    fn routes_of_all_fleets_count() {
        let known = BTreeMap::from([("pg-1".to_owned(), 90), ("pg-2".to_owned(), 50)]);
        let spec = PgBouncerSpec {
            replicas: 3,
            connection_budget: ConnectionBudget { overcommit_percent: 150 },
            ..PgBouncerSpec::default()
        };
        let pools = [pool("global", Some("pg-1")), pool("other", Some("pg-1")), pool("global", None)];
        let budgets = budgets(&known, &PgBouncer::new("global", spec), 0, &pools);
        assert_eq!(budgets["pg-1"], Budget { connections: 135, routes: 2, processes: 3 });
        assert_eq!(budgets["pg-2"], Budget { connections: 75, routes: 0, processes: 3 });
    }

    #[test]
    fn a_pool_that_moves_counts_in_each_of_its_shards() {
        let mut moves = ConnectionPool::clone(&pool("other", Some("pg-1")));
        moves.status.as_mut().unwrap().former_places = vec![FormerPlace {
            place: Place { fleet: NamespacedRef { namespace: "ahoi-system".into(), name: "global".into() }, shard: 0 },
            state: FormerState::Left,
            since: Time("2026-01-01T00:00:00Z".parse().unwrap()),
        }];
        let known = BTreeMap::from([("pg-1".to_owned(), 90)]);
        let pools = [Arc::new(moves), pool("global", Some("pg-1"))];
        let budgets = budgets(&known, &PgBouncer::new("global", PgBouncerSpec::default()), 0, &pools);
        assert_eq!(budgets["pg-1"].routes, 3);
    }
}
