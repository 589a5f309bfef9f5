//! What each DatabaseServer has to share out.

use std::collections::BTreeMap;
use std::sync::Arc;

use ahoi_api::{ConnectionPool, DatabaseServer, PgBouncer, Route};
use ahoi_pgbouncer::config::{Budget, Shares, share};
use ahoi_pgbouncer::fleet;
use ahoi_reconcile::Cache;
use kube::ResourceExt;

/// The servers, and what was last known of their connections.
pub struct Budgets {
    servers: Cache<DatabaseServer>,
    /// A DatabaseServer that is gone may be gone by mistake; the PostgreSQL behind it has no more connections than before.
    known: BTreeMap<String, i64>,
}

impl Budgets {
    pub fn new(servers: Cache<DatabaseServer>) -> Self {
        Budgets { servers, known: BTreeMap::new() }
    }

    /// Gives each of this process's `routes` its share of what `fleet` may open, beside the `pools` of all fleets.
    pub fn share(
        &mut self,
        fleet: &PgBouncer,
        routes: &BTreeMap<String, Route>,
        pools: &[Arc<ConnectionPool>],
    ) -> Shares {
        for server in self.servers.all() {
            if let Some(connections) = server.pooler_connections() {
                self.known.insert(server.name_any(), connections);
            }
        }
        let mut leading: BTreeMap<&str, i64> = BTreeMap::new();
        for route in pools.iter().filter_map(|pool| pool.status.as_ref()?.route.as_ref()) {
            *leading.entry(&route.server).or_default() += 1;
        }
        let percent = i64::from(fleet.spec.connection_budget.overcommit_percent);
        let processes = fleet::processes(fleet);
        let budgets = self.known.iter().map(|(server, connections)| {
            let connections = connections * percent / 100;
            let routes = leading.get(server.as_str()).copied().unwrap_or_default();
            (server.clone(), Budget { connections, routes, processes })
        });
        share(routes, &budgets.collect())
    }
}
