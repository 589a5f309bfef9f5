//! What this process counts. Labels are few and bounded.

use ahoi_reconcile::Platform;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};

/// The metrics of the two controllers.
#[derive(Clone)]
pub struct Metrics {
    /// Databases made.
    pub provisioned: Counter,
    /// What a sweep takes.
    pub sweep: Histogram,
    repairs: Family<What, Counter>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct What {
    what: &'static str,
}

impl Metrics {
    /// Registers them with the process's own.
    pub fn new(platform: &Platform) -> Self {
        let metrics = Metrics {
            provisioned: Counter::default(),
            // 1 ms to 16 s
            sweep: Histogram::new(exponential_buckets(0.001, 4.0, 8)),
            repairs: Family::default(),
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
        });
        metrics
    }

    /// Something was put back.
    pub fn repaired(&self, what: &'static str) {
        self.repairs.get_or_create(&What { what }).inc();
    }
}
