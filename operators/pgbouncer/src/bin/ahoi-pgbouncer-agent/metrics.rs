//! The metrics of the agent. They have no labels, as a fleet has thousands of routes. [`top`](crate::top) has those of the
//! busiest customers.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use ahoi_pgbouncer::console::{Load, Totals};
use ahoi_pgbouncer::logins;
use ahoi_reconcile::Platform;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;

/// The metrics of the process.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    pub routes: Gauge,
    pub refused: Gauge,
    pub held: Gauge,
    pub reloads: Counter,
    longest_reload: Gauge<f64, AtomicU64>,
    pub failures: Counter,
    pub restarts: Counter,
    clients_active: Gauge,
    clients_waiting: Gauge,
    servers_active: Gauge,
    servers_idle: Gauge,
    longest_wait: Gauge<f64, AtomicU64>,
    transactions: Gauge,
    pub unfinished_logins: Gauge,
    pub login_flood: Gauge,
    logins: Gauge,
    connections: Gauge,
}

impl Metrics {
    pub fn register(platform: &Platform) -> Self {
        let metrics = Metrics::default();
        let m = metrics.clone();
        platform.register(move |registry| {
            registry.register("pooler_routes", "Loaded routes", m.routes);
            registry.register("pooler_refused_routes", "Refused routes", m.refused);
            registry.register(
                "pooler_held_servers",
                "DatabaseServers whose clients wait because the server is unreachable or in maintenance",
                m.held,
            );
            registry.register("pooler_reloads", "Reloads of pgbouncer", m.reloads);
            registry.register(
                "pooler_longest_reload_seconds",
                "Duration of the longest reload, during which pgbouncer serves no client",
                m.longest_reload,
            );
            registry.register("pooler_failures", "Failed reconciles of pgbouncer's configuration", m.failures);
            registry.register("pooler_restarts", "Unexpected exits of pgbouncer", m.restarts);
            registry.register("pooler_clients_active", "Clients with a server connection", m.clients_active);
            registry.register("pooler_clients_waiting", "Clients waiting for a server connection", m.clients_waiting);
            registry.register("pooler_servers_active", "Server connections with a client", m.servers_active);
            registry.register("pooler_servers_idle", "Server connections without a client", m.servers_idle);
            registry.register(
                "pooler_longest_wait_seconds",
                "Wait of the client that has waited longest for a server connection",
                m.longest_wait,
            );
            registry.register("pooler_transactions", "Transactions since pgbouncer started", m.transactions);
            registry.register(
                "pooler_unfinished_logins",
                "Connected clients that have not logged in yet",
                m.unfinished_logins,
            );
            registry.register(
                "pooler_login_flood",
                "1 while a flood of unfinished logins is reported, else 0",
                m.login_flood,
            );
            registry.register("pooler_logins", "Successful logins since pgbouncer started", m.logins);
            registry.register(
                "pooler_connections_accepted",
                "TCP connections that the pod has accepted since it started, probes included",
                m.connections,
            );
        });
        metrics
    }

    pub fn record_reload(&self, took: Duration) {
        let longest = took.as_secs_f64().max(self.longest_reload.get());
        self.longest_reload.set(longest);
    }

    pub fn observe(&self, load: &Load, totals: &Totals) {
        self.clients_active.set(load.clients_active);
        self.clients_waiting.set(load.clients_waiting);
        self.servers_active.set(load.servers_active);
        self.servers_idle.set(load.servers_idle);
        // Realistic waits fit into a float.
        #[allow(clippy::cast_precision_loss)]
        self.longest_wait.set(load.longest_wait as f64 / 1e6);
        self.transactions.set(totals.transactions);
        self.logins.set(totals.logins);
        // Not every kernel provides the file.
        if let Some(accepted) = std::fs::read_to_string("/proc/net/snmp").ok().and_then(|text| logins::accepted(&text))
        {
            self.connections.set(accepted);
        }
    }
}
