//! The caches that both controllers of this crate read.

use ahoi_api::{Customer, Plan};
use ahoi_reconcile::{Cache, Platform};

/// All Customers and Plans.
pub struct Caches {
    pub(crate) customers: Cache<Customer>,
    pub(crate) plans: Cache<Plan>,
}

impl Caches {
    /// Starts the caches.
    #[must_use]
    pub fn start(platform: &Platform) -> Self {
        Self { customers: platform.watch_all_packed(), plans: platform.watch_all() }
    }
}
