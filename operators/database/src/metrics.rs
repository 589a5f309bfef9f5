//! Metrics of this process. The number of label values is limited.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use ahoi_reconcile::{BoundedGauges, Platform};
use parking_lot::Mutex;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};

/// The metrics of the two controllers.
#[derive(Clone)]
pub struct Metrics {
    /// Databases that were created.
    pub provisioned: Counter,
    /// Duration of sweeps.
    pub sweep: Histogram,
    repairs: Family<What, Counter>,
    /// Logins whose password was replaced.
    pub password_changes: Counter,
    top: usize,
    server_up: Family<Server, Gauge>,
    disk_used: Family<Server, Gauge<f64, AtomicU64>>,
    pending_removals: Family<Server, Gauge>,
    over_quota: Gauge,
    quota_used: Arc<Mutex<BoundedGauges<Customer, 1>>>,
    shown: Arc<Mutex<Shown>>,
}

/// The exported labels, to remove those that are obsolete.
#[derive(Default)]
struct Shown {
    servers: BTreeSet<Server>,
}

/// Label of a DatabaseServer; administrators create few of them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, EncodeLabelSet)]
struct Server {
    server: String,
}

/// Label of a namespace, for the fullest databases only.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, EncodeLabelSet)]
struct Customer {
    database_namespace: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct What {
    what: &'static str,
}

impl Metrics {
    /// Registers the metrics. `top` is the number of customers with metrics of their own.
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
            quota_used: Arc::new(Mutex::new(BoundedGauges::register(
                platform,
                [("database_quota_used", "Size of the fullest databases as a fraction of their storage")],
            ))),
            shown: Arc::default(),
        };
        platform.register(|registry| {
            registry.register(
                "databases_provisioned",
                "Number of databases that were created",
                metrics.provisioned.clone(),
            );
            registry.register(
                "database_sweep_duration_seconds",
                "Duration of the sweeps of DatabaseServers in seconds",
                metrics.sweep.clone(),
            );
            registry.register(
                "database_repairs",
                "Number of reverted changes by others, by what was changed",
                metrics.repairs.clone(),
            );
            registry.register(
                "database_password_changes",
                "Number of logins that got a new password",
                metrics.password_changes.clone(),
            );
            registry.register(
                "database_server_up",
                "1 if the DatabaseServer is Ready, otherwise 0",
                metrics.server_up.clone(),
            );
            registry.register(
                "database_server_disk_used",
                "Used bytes of the disk as a fraction of spec.diskSize",
                metrics.disk_used.clone(),
            );
            registry.register(
                "database_pending_removals",
                "Number of pending removals of deleted Databases",
                metrics.pending_removals.clone(),
            );
            registry.register(
                "databases_over_quota",
                "Number of databases whose writes are refused because their storage is used up",
                metrics.over_quota.clone(),
            );
        });
        metrics
    }

    /// Records whether a server is Ready, and removes the metrics of deleted servers.
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

    /// Records how full the disk of a server is; none if its size is unknown.
    pub fn disk(&self, name: &str, used: Option<f64>) {
        let server = Server { server: name.to_owned() };
        match used {
            Some(used) => _ = self.disk_used.get_or_create(&server).set(used),
            None => _ = self.disk_used.remove(&server),
        }
    }

    /// Records the number of pending removals of a server.
    pub fn pending_removals(&self, name: &str, count: usize) {
        let server = Server { server: name.to_owned() };
        self.pending_removals.get_or_create(&server).set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// Records how full databases are: namespace, and size as a fraction of the storage.
    pub fn quotas(&self, over: usize, databases: impl IntoIterator<Item = (String, f64)>) {
        self.over_quota.set(i64::try_from(over).unwrap_or(i64::MAX));
        let top = fullest(databases, self.top);
        self.quota_used.lock().replace(top.into_iter().map(|(customer, used)| (customer, [Some(used)])));
    }

    /// Counts a reverted change.
    pub fn repaired(&self, what: &'static str) {
        self.repairs.get_or_create(&What { what }).inc();
    }
}

/// The fullest database of each namespace, and the fullest of these.
fn fullest(databases: impl IntoIterator<Item = (String, f64)>, count: usize) -> Vec<(Customer, f64)> {
    let mut all: Vec<_> = databases.into_iter().collect();
    all.sort_by(|(one, used), (other, others)| others.total_cmp(used).then_with(|| one.cmp(other)));
    let mut seen = BTreeSet::new();
    all.retain(|(namespace, _)| seen.insert(namespace.clone()));
    all.truncate(count);
    all.into_iter().map(|(database_namespace, used)| (Customer { database_namespace }, used)).collect()
}

#[cfg(test)]
mod tests;
