//! Since when each Lease has been unchanged.

use std::collections::HashMap;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use tokio::time::Instant;

/// The last observed version of each Lease, and when it was first observed. Expiry is measured with this, by our own clock: the
/// times in a Lease are those of another machine.
#[derive(Default)]
pub(crate) struct Sightings(HashMap<String, Sighting>);

struct Sighting {
    version: Option<String>,
    since: Instant,
}

impl Sightings {
    /// Records a Lease at `now`, which is when the response arrived, not when the request was sent. A missing Lease is recorded
    /// too: it may have been deleted while its holder works.
    pub(crate) fn note(&mut self, name: &str, lease: Option<&Lease>, now: Instant) {
        let version = lease.map(version);
        match self.0.get(name) {
            Some(known) if known.version == version => {}
            _ => drop(self.0.insert(name.to_owned(), Sighting { version, since: now })),
        }
    }

    /// How long it has been unchanged.
    pub(crate) fn age(&self, name: &str, now: Instant) -> Duration {
        self.0.get(name).map_or(Duration::ZERO, |known| now - known.since)
    }

    /// Whether it was recorded before.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// How long it has been missing. `None`: it exists, or was never recorded.
    pub(crate) fn missing(&self, name: &str, now: Instant) -> Option<Duration> {
        self.0.get(name).filter(|known| known.version.is_none()).map(|known| now - known.since)
    }

    /// Removes the records for which `keep` returns false.
    pub(crate) fn retain(&mut self, keep: impl Fn(&str) -> bool) {
        self.0.retain(|name, _| keep(name));
    }
}

/// Identifies a version, also across recreations.
pub(crate) fn version(lease: &Lease) -> String {
    let meta = &lease.metadata;
    format!("{}/{}", meta.uid.as_deref().unwrap_or_default(), meta.resource_version.as_deref().unwrap_or_default())
}

/// The holder; a released Lease has none.
pub(crate) fn holder(lease: &Lease) -> Option<&str> {
    lease.spec.as_ref()?.holder_identity.as_deref().filter(|holder| !holder.is_empty())
}
