//! What this process counts. Labels are few and bounded.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use ahoi_reconcile::Platform;
use parking_lot::Mutex;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};

/// The metrics of the two controllers.
#[derive(Clone)]
pub struct Metrics {
    /// Databases made.
    pub provisioned: Counter,
    /// What a sweep takes.
    pub sweep: Histogram,
    repairs: Family<What, Counter>,
    /// Logins that were given another password.
    pub password_changes: Counter,
    top: usize,
    server_up: Family<Server, Gauge>,
    disk_used: Family<Server, Gauge<f64, AtomicU64>>,
    pending_removals: Family<Server, Gauge>,
    over_quota: Gauge,
    quota_used: Family<Customer, Gauge<f64, AtomicU64>>,
    shown: Arc<Mutex<Shown>>,
}

/// The labels there are, to take away those that are no more.
#[derive(Default)]
struct Shown {
    servers: BTreeSet<Server>,
    customers: BTreeSet<Customer>,
}

/// There are as many as the platform team has made.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, EncodeLabelSet)]
struct Server {
    server: String,
}

/// The namespace of a Database, of the few that matter most.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, EncodeLabelSet)]
struct Customer {
    database_namespace: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct What {
    what: &'static str,
}

impl Metrics {
    /// Registers them with the process's own.
    pub fn new(platform: &Platform, top: usize) -> Self {
        let metrics = Metrics {
            provisioned: Counter::default(),
            // 1 ms to 16 s
            sweep: Histogram::new(exponential_buckets(0.001, 4.0, 8)),
            repairs: Family::default(),
            password_changes: Counter::default(),
            top,
            server_up: Family::default(),
            disk_used: Family::default(),
            pending_removals: Family::default(),
            over_quota: Gauge::default(),
            quota_used: Family::default(),
            shown: Arc::default(),
        };
        platform.register(|registry| {
            registry.register("databases_provisioned", "Databases made", metrics.provisioned.clone());
            registry.register(
                "database_sweep_duration_seconds",
                "Duration of sweeps of a server",
                metrics.sweep.clone(),
            );
            registry.register(
                "database_repairs",
                "Changes by others that were put back, by what they were about",
                metrics.repairs.clone(),
            );
            registry.register(
                "database_password_changes",
                "Logins that were given another password",
                metrics.password_changes.clone(),
            );
            registry.register(
                "database_server_up",
                "1 while the DatabaseServer is Ready, 0 while it is not",
                metrics.server_up.clone(),
            );
            registry.register(
                "database_server_disk_used",
                "Used bytes as a fraction of spec.diskSize",
                metrics.disk_used.clone(),
            );
            registry.register(
                "database_pending_removals",
                "Removals of deleted Databases that the server has not carried out yet",
                metrics.pending_removals.clone(),
            );
            registry.register(
                "databases_over_quota",
                "Databases whose writes are refused because their storage is used up",
                metrics.over_quota.clone(),
            );
            registry.register(
                "database_quota_used",
                "Size as a fraction of the storage, of the fullest databases",
                metrics.quota_used.clone(),
            );
        });
        metrics
    }

    /// Whether a server is Ready, and which servers there are.
    pub fn server(&self, name: &str, up: bool, exists: impl Fn(&str) -> bool) {
        let server = Server { server: name.to_owned() };
        self.server_up.get_or_create(&server).set(i64::from(up));
        let mut shown = self.shown.lock();
        shown.servers.insert(server);
        shown.servers.retain(|server| {
            let stays = exists(&server.server);
            if !stays {
                self.server_up.remove(server);
                self.disk_used.remove(server);
                self.pending_removals.remove(server);
            }
            stays
        });
    }

    /// How full a server's disk is; none where its size is not known.
    pub fn disk(&self, name: &str, used: Option<f64>) {
        let server = Server { server: name.to_owned() };
        match used {
            Some(used) => _ = self.disk_used.get_or_create(&server).set(used),
            None => _ = self.disk_used.remove(&server),
        }
    }

    /// How many removals a server has not carried out yet.
    pub fn pending_removals(&self, name: &str, count: usize) {
        let server = Server { server: name.to_owned() };
        self.pending_removals.get_or_create(&server).set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// How full databases are: namespace, and size as a fraction of the storage.
    pub fn quotas(&self, over: usize, databases: impl IntoIterator<Item = (String, f64)>) {
        self.over_quota.set(i64::try_from(over).unwrap_or(i64::MAX));
        let top = fullest(databases, self.top);
        for (customer, used) in &top {
            self.quota_used.get_or_create(customer).set(*used);
        }
        let now: BTreeSet<Customer> = top.into_iter().map(|(customer, _)| customer).collect();
        let mut shown = self.shown.lock();
        for gone in shown.customers.difference(&now) {
            self.quota_used.remove(gone);
        }
        shown.customers = now;
    }

    /// Something was put back.
    pub fn repaired(&self, what: &'static str) {
        self.repairs.get_or_create(&What { what }).inc();
    }
}

/// The fullest database of each namespace, and of those the fullest.
fn fullest(databases: impl IntoIterator<Item = (String, f64)>, count: usize) -> Vec<(Customer, f64)> {
    let mut all: Vec<_> = databases.into_iter().collect();
    all.sort_by(|(one, used), (other, others)| others.total_cmp(used).then_with(|| one.cmp(other)));
    let mut seen = BTreeSet::new();
    all.retain(|(namespace, _)| seen.insert(namespace.clone()));
    all.truncate(count);
    all.into_iter().map(|(database_namespace, used)| (Customer { database_namespace }, used)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_of_the_fullest() {
        let all =
            [("a", 0.1), ("b", 0.9), ("c", 0.5), ("b", 0.2), ("d", 0.3)].map(|(name, used)| (name.to_owned(), used));
        let top: Vec<_> =
            fullest(all, 3).into_iter().map(|(customer, used)| (customer.database_namespace, used)).collect();
        assert_eq!(top, [("b".to_owned(), 0.9), ("c".to_owned(), 0.5), ("d".to_owned(), 0.3)]);
    }
}
