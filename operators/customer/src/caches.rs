//! The caches that both controllers of this crate read.

use ahoi_api::{Customer, Plan};
use ahoi_reconcile::{Cache, Platform, watcher};
use kube::Api;

/// All Customers and Plans.
pub struct Caches {
    pub(crate) customers: Cache<Customer>,
    pub(crate) plans: Cache<Plan>,
}

impl Caches {
    /// Starts the caches.
    #[must_use]
    pub fn start(platform: &Platform) -> Self {
        let all = watcher::Config::default;
        Self {
            customers: platform.cache_packed(Api::all(platform.client.clone()), all()),
            plans: platform.cache(Api::all(platform.client.clone()), all()),
        }
    }
}
