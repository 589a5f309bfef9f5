//! Since when a Lease has looked as it does.

use std::collections::HashMap;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use tokio::time::Instant;

/// What was last seen of each Lease, and when that was first seen. Whether somebody is still there is told from this, on our own
/// clock: the times in a Lease are those of another machine.
#[derive(Default)]
pub(crate) struct Sightings(HashMap<String, Sighting>);

struct Sighting {
    version: Option<String>,
    since: Instant,
}

impl Sightings {
    /// Notes what there is `now`, which is when the answer came, not when it was asked for. A Lease that is not there is a
    /// sighting, too: somebody may have deleted it under its holder's hands.
    pub(crate) fn note(&mut self, name: &str, lease: Option<&Lease>, now: Instant) {
        let version = lease.map(version);
        match self.0.get(name) {
            Some(known) if known.version == version => {}
            _ => drop(self.0.insert(name.to_owned(), Sighting { version, since: now })),
        }
    }

    /// How long it has been as it is.
    pub(crate) fn age(&self, name: &str, now: Instant) -> Duration {
        self.0.get(name).map_or(Duration::ZERO, |known| now - known.since)
    }

    /// Whether it was there before.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// How long it has been missing. `None`: it is there, or was never seen.
    pub(crate) fn missing(&self, name: &str, now: Instant) -> Option<Duration> {
        self.0.get(name).filter(|known| known.version.is_none()).map(|known| now - known.since)
    }

    /// Forgets who is no more to be looked at.
    pub(crate) fn retain(&mut self, keep: impl Fn(&str) -> bool) {
        self.0.retain(|name, _| keep(name));
    }
}

/// Deleted and created again is another one.
pub(crate) fn version(lease: &Lease) -> String {
    let meta = &lease.metadata;
    format!("{}/{}", meta.uid.as_deref().unwrap_or_default(), meta.resource_version.as_deref().unwrap_or_default())
}

/// Whom it names; a Lease that was given back names nobody.
pub(crate) fn holder(lease: &Lease) -> Option<&str> {
    lease.spec.as_ref()?.holder_identity.as_deref().filter(|holder| !holder.is_empty())
}
