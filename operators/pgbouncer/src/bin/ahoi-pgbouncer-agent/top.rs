//! What is told of single customers and servers: of the few customers that matter most now, and of each server. So there
//! are never more series than a bound, however many customers there are.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::hash::Hash;
use std::sync::atomic::AtomicU64;

use ahoi_api::Route;
use ahoi_pgbouncer::bounds::Bounds;
use ahoi_pgbouncer::config::auth_alias;
use ahoi_pgbouncer::console::Usage;
use ahoi_reconcile::Platform;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
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

type Fraction = Gauge<f64, AtomicU64>;

/// The metrics.
pub struct Top {
    customers: usize,
    shown: BTreeSet<Customer>,
    servers: BTreeSet<Server>,
    waiting: Family<Customer, Gauge>,
    longest_wait: Family<Customer, Fraction>,
    active: Family<Customer, Gauge>,
    clients_of_limit: Family<Customer, Fraction>,
    at_client_limit: Gauge,
    server_connections: Family<Server, Gauge>,
}

impl Top {
    /// With metrics for so many customers.
    pub fn register(platform: &Platform, customers: usize) -> Self {
        let top = Top {
            customers,
            shown: BTreeSet::new(),
            servers: BTreeSet::new(),
            waiting: Family::default(),
            longest_wait: Family::default(),
            active: Family::default(),
            clients_of_limit: Family::default(),
            at_client_limit: Gauge::default(),
            server_connections: Family::default(),
        };
        platform.register(|registry| {
            registry.register(
                "pooler_customer_clients_waiting",
                "Clients waiting for a server connection, of the customers that matter most",
                top.waiting.clone(),
            );
            registry.register(
                "pooler_customer_longest_wait_seconds",
                "How long the longest waiting client of the customer has waited, of the customers that matter most",
                top.longest_wait.clone(),
            );
            registry.register(
                "pooler_customer_servers_active",
                "Server connections with a client, of the customers that matter most",
                top.active.clone(),
            );
            registry.register(
                "pooler_customer_clients_of_limit",
                "Client connections as a fraction of those the customer may have, of the customers that matter most",
                top.clients_of_limit.clone(),
            );
            registry.register(
                "pooler_customers_at_client_limit",
                "Customers whose further clients are refused now because they have as many as they may",
                top.at_client_limit.clone(),
            );
            registry.register(
                "pooler_server_connections",
                "Server connections by DatabaseServer",
                top.server_connections.clone(),
            );
        });
        top
    }

    /// Reports what pgbouncer says of its databases, which may have as many clients as `bounds` say.
    pub fn observe(&mut self, routes: &BTreeMap<String, Route>, usages: &BTreeMap<String, Usage>, bounds: &Bounds) {
        let customers = customers(routes, usages, bounds);
        self.at_client_limit.set(count(customers.values().filter(|activity| activity.is_full()).count()));
        let top = top(&customers, self.customers);
        for (customer, Activity { usage, max_clients }) in &top {
            self.waiting.get_or_create(customer).set(usage.clients_waiting);
            self.longest_wait.get_or_create(customer).set(fraction(usage.longest_wait, 1_000_000));
            self.active.get_or_create(customer).set(usage.servers_active);
            if *max_clients > 0 {
                self.clients_of_limit.get_or_create(customer).set(fraction(usage.clients, *max_clients));
            } else {
                self.clients_of_limit.remove(customer);
            }
        }
        let shown: BTreeSet<Customer> = top.into_iter().map(|(customer, _)| customer.clone()).collect();
        for gone in self.shown.difference(&shown) {
            self.waiting.remove(gone);
            self.longest_wait.remove(gone);
            self.active.remove(gone);
            self.clients_of_limit.remove(gone);
        }
        self.shown = shown;

        let servers = servers(routes, usages);
        for (server, connections) in &servers {
            self.server_connections.get_or_create(server).set(*connections);
        }
        forget(&self.server_connections, &self.servers, &servers);
        self.servers = servers.into_keys().collect();
    }
}

fn forget<L: Clone + Debug + Hash + Ord>(family: &Family<L, Gauge>, before: &BTreeSet<L>, now: &BTreeMap<L, i64>) {
    for gone in before.iter().filter(|label| !now.contains_key(*label)) {
        family.remove(gone);
    }
}

/// What a customer does.
#[derive(Clone, Debug, Default)]
struct Activity {
    usage: Usage,
    /// Clients that it may have; 0 for no bound.
    max_clients: i64,
}

impl Activity {
    fn is_full(&self) -> bool {
        self.max_clients > 0 && self.usage.clients >= self.max_clients
    }
}

/// What each customer does; one that has several pools is one customer.
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

/// The customers that matter most. One that does nothing does not matter.
fn top(customers: &BTreeMap<Customer, Activity>, count: usize) -> Vec<(&Customer, &Activity)> {
    let does_something = |activity: &Activity| activity.usage.clients > 0 || activity.usage.servers > 0;
    let mut all: Vec<_> = customers.iter().filter(|(_, activity)| does_something(activity)).collect();
    all.sort_by_key(|(customer, activity)| {
        let usage = &activity.usage;
        let rank = (usage.longest_wait, usage.clients_waiting, activity.is_full(), usage.servers_active, usage.clients);
        (Reverse(rank), *customer)
    });
    all.truncate(count);
    all
}

/// The connections to each server, those that look up passwords included.
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

// Numbers that matter are few enough for a float.
#[allow(clippy::cast_precision_loss)]
fn fraction(part: i64, whole: i64) -> f64 {
    part as f64 / whole as f64
}

fn count(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
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
    fn those_that_wait_come_first_and_no_more_than_the_bound() {
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
    fn nobody_is_told_of_who_does_nothing() {
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
        // Both of its routes share it.
        usages.insert(auth_alias(&routes["customer-0/main"]), connections(2));
        let servers = servers(&routes, &usages);
        let of = |server: &str| servers[&Server { server: server.into() }];
        assert_eq!((of("pg-0"), of("pg-1")), (22, 20));
    }
}
