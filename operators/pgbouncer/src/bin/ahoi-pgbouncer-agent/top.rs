//! Metrics of the busiest customers and of each server. The number of series is bounded, however many customers there are.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use ahoi_api::Route;
use ahoi_pgbouncer::bounds::Bounds;
use ahoi_pgbouncer::config::auth_alias;
use ahoi_pgbouncer::console::Usage;
use ahoi_reconcile::{BoundedGauges, Platform};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::gauge::Gauge;

/// The label of a customer: the namespace of its ConnectionPool.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, EncodeLabelSet)]
struct Customer {
    pool_namespace: String,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, EncodeLabelSet)]
struct Server {
    server: String,
}

/// The metrics.
pub struct Top {
    count: usize,
    customers: BoundedGauges<Customer, 4>,
    servers: BoundedGauges<Server, 1>,
    at_client_limit: Gauge,
}

impl Top {
    /// Registers metrics for the busiest `count` customers.
    pub fn register(platform: &Platform, count: usize) -> Self {
        let at_client_limit = Gauge::default();
        platform.register(|registry| {
            registry.register(
                "pooler_customers_at_client_limit",
                "Customers that have reached maxClientConnections, so that new clients are refused",
                at_client_limit.clone(),
            );
        });
        let customers = [
            ("pooler_customer_clients_waiting", "Clients waiting for a server connection, of the busiest customers"),
            (
                "pooler_customer_longest_wait_seconds",
                "Wait of the client that has waited longest for a server connection, of the busiest customers",
            ),
            ("pooler_customer_servers_active", "Server connections with a client, of the busiest customers"),
            (
                "pooler_customer_clients_of_limit",
                "Clients as a fraction of maxClientConnections, of the busiest customers",
            ),
        ];
        Top {
            count,
            customers: BoundedGauges::register(platform, customers),
            servers: BoundedGauges::register(
                platform,
                [("pooler_server_connections", "Server connections by DatabaseServer")],
            ),
            at_client_limit,
        }
    }

    /// Updates the metrics. `bounds` are the maximum numbers of clients by database.
    pub fn observe(&mut self, routes: &BTreeMap<String, Route>, usages: &BTreeMap<String, Usage>, bounds: &Bounds) {
        let customers = customers(routes, usages, bounds);
        let full = customers.values().filter(|activity| activity.is_full()).count();
        self.at_client_limit.set(i64::try_from(full).unwrap_or(i64::MAX));
        let top = top(&customers, self.count).into_iter();
        self.customers.replace(top.map(|(customer, activity)| (customer.clone(), activity.values())));
        let servers = servers(routes, usages).into_iter();
        self.servers.replace(servers.map(|(server, connections)| (server, [Some(fraction(connections, 1))])));
    }
}

/// The activity of a customer.
#[derive(Clone, Debug, Default)]
struct Activity {
    usage: Usage,
    /// Maximum number of clients; 0 without a maximum.
    max_clients: i64,
}

impl Activity {
    fn values(&self) -> [Option<f64>; 4] {
        let usage = &self.usage;
        let of_limit = (self.max_clients > 0).then(|| fraction(usage.clients, self.max_clients));
        [
            Some(fraction(usage.clients_waiting, 1)),
            Some(fraction(usage.longest_wait, 1_000_000)),
            Some(fraction(usage.servers_active, 1)),
            of_limit,
        ]
    }

    fn is_full(&self) -> bool {
        self.max_clients > 0 && self.usage.clients >= self.max_clients
    }
}

/// The activity of each customer, over all of its pools.
fn customers(
    routes: &BTreeMap<String, Route>,
    usages: &BTreeMap<String, Usage>,
    bounds: &Bounds,
) -> BTreeMap<Customer, Activity> {
    let mut customers: BTreeMap<Customer, Activity> = BTreeMap::new();
    for (key, route) in routes {
        let Some(usage) = usages.get(&route.database) else { continue };
        let namespace = key.split_once('/').map_or(key.as_str(), |(namespace, _)| namespace);
        let activity = customers.entry(Customer { pool_namespace: namespace.to_owned() }).or_default();
        activity.max_clients += bounds.get(&route.database).copied().unwrap_or(0);
        let all = &mut activity.usage;
        all.clients_waiting += usage.clients_waiting;
        all.longest_wait = all.longest_wait.max(usage.longest_wait);
        all.servers_active += usage.servers_active;
        all.servers += usage.servers;
        all.clients += usage.clients;
    }
    customers
}

/// The busiest customers: those whose clients wait longest come first, and idle ones are left out.
fn top(customers: &BTreeMap<Customer, Activity>, count: usize) -> Vec<(&Customer, &Activity)> {
    let is_active = |activity: &Activity| activity.usage.clients > 0 || activity.usage.servers > 0;
    let mut all: Vec<_> = customers.iter().filter(|(_, activity)| is_active(activity)).collect();
    all.sort_by_key(|(customer, activity)| {
        let usage = &activity.usage;
        let rank = (usage.longest_wait, usage.clients_waiting, activity.is_full(), usage.servers_active, usage.clients);
        (Reverse(rank), *customer)
    });
    all.truncate(count);
    all
}

/// The number of connections to each server, those for auth_query included.
fn servers(routes: &BTreeMap<String, Route>, usages: &BTreeMap<String, Usage>) -> BTreeMap<Server, i64> {
    let databases: BTreeSet<(&str, String)> = routes
        .values()
        .flat_map(|route| [route.database.clone(), auth_alias(route)].map(|name| (route.server.as_str(), name)))
        .collect();
    let mut servers = BTreeMap::new();
    for (server, database) in databases {
        let connections = usages.get(&database).map_or(0, |usage| usage.servers);
        *servers.entry(Server { server: server.to_owned() }).or_insert(0) += connections;
    }
    servers
}

// Realistic numbers fit into a float.
#[allow(clippy::cast_precision_loss)]
fn fraction(part: i64, whole: i64) -> f64 {
    part as f64 / whole as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routes(count: usize) -> BTreeMap<String, Route> {
        let route =
            |i: usize| Route { database: format!("c_{i}"), server: format!("pg-{}", i % 2), ..Route::default() };
        (0..count).map(|i| (format!("customer-{i}/main"), route(i))).collect()
    }

    fn names(top: &[(&Customer, &Activity)]) -> Vec<String> {
        top.iter().map(|(customer, _)| customer.pool_namespace.clone()).collect()
    }

    #[test]
    fn customers_with_waiting_clients_come_first() {
        let mut usages: BTreeMap<String, Usage> = (0..1000)
            .map(|i| (format!("c_{i}"), Usage { clients: 1, servers_active: 1, ..Usage::default() }))
            .collect();
        usages.get_mut("c_7").unwrap().longest_wait = 5;
        usages.get_mut("c_8").unwrap().clients_waiting = 9;
        usages.get_mut("c_9").unwrap().servers_active = 3;
        let customers = customers(&routes(1000), &usages, &Bounds::new());
        let top = top(&customers, 5);
        assert_eq!(names(&top)[..3], ["customer-7", "customer-8", "customer-9"]);
        assert_eq!(top.len(), 5);
    }

    #[test]
    fn idle_customers_have_no_metrics() {
        let usages = [("c_0".to_owned(), Usage::default())].into();
        assert!(top(&customers(&routes(3), &usages, &Bounds::new()), 5).is_empty());
    }

    #[test]
    fn a_customer_at_its_limit_is_counted() {
        let usages = [("c_0".to_owned(), Usage { clients: 4, ..Usage::default() })].into();
        let is_full = |bound| {
            let customers = customers(&routes(1), &usages, &[("c_0".to_owned(), bound)].into());
            customers.values().all(Activity::is_full)
        };
        assert!(is_full(4) && !is_full(5) && !is_full(0));
    }

    #[test]
    fn connections_are_counted_once_for_each_server() {
        let routes = routes(4);
        let connections = |servers| Usage { servers, ..Usage::default() };
        let mut usages: BTreeMap<String, Usage> = (0..4).map(|i| (format!("c_{i}"), connections(10))).collect();
        // Both routes of the server share the auth_query database.
        usages.insert(auth_alias(&routes["customer-0/main"]), connections(2));
        let servers = servers(&routes, &usages);
        let of = |server: &str| servers[&Server { server: server.into() }];
        assert_eq!((of("pg-0"), of("pg-1")), (22, 20));
    }
}
