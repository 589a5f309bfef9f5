//! A single leader: one partition, whose Lease is `ahoi-x` and names the replica itself.
//!
//! The leader sends one request in each period: a write that fails if the Lease has changed. A standby reads it as often.

use tokio::time::Instant;
use tracing::{info, warn};

use super::coordinator::{Coordinator, DEADLINE, Eligibility, LEASE};
use super::sightings::holder;
use crate::metrics::Metrics;

impl Coordinator {
    /// Renews the Lease, or takes it if it is free. `false`: this replica held it and lost it.
    pub(super) async fn lead(&mut self, eligibility: Eligibility, metrics: &Metrics) -> anyhow::Result<bool> {
        let (name, is_leading) = (self.name.clone(), !self.partitions.held().is_empty());
        let seen = match self.renewed_lease.take() {
            Some(lease) => Some(lease),
            None => self.find(&name).await?,
        };
        let is_named = seen.as_ref().and_then(holder) == Some(&self.me);
        if is_leading && !is_named {
            warn!("another replica holds the Lease, or it was deleted");
            return Ok(false);
        }
        if !is_leading {
            let now = Instant::now();
            // A Lease that never existed has no holder; the holder of one that was deleted may not have noticed it yet.
            if seen.is_some() || self.sightings.has(&name) {
                self.sightings.note(&name, seen.as_ref(), now);
            }
            let is_held = !is_named && seen.as_ref().and_then(holder).is_some();
            let may_be_held = is_held || self.sightings.missing(&name, now).is_some();
            if !eligibility.may_take || (may_be_held && self.sightings.age(&name, now) < LEASE) {
                return Ok(true);
            }
        }
        let sent = Instant::now();
        // Without an answer, or if the Lease has changed, the next call reads it.
        let Some(lease) = self.write(seen.as_ref(), &name, &self.me).await? else { return Ok(true) };
        self.partitions.fence().extend(sent + DEADLINE);
        self.renewed_lease = Some(lease);
        if !is_leading {
            self.note_takeover(0, seen.as_ref(), metrics);
            self.partitions.gain(0);
        }
        Ok(true)
    }

    /// Releases the Lease, unless a reconcile still runs: then it expires.
    pub(super) async fn release_lead(&self) -> anyhow::Result<()> {
        if self.partitions.let_go(0)
            && let Some(lease) = self.find(&self.name).await?.filter(|lease| holder(lease) == Some(&self.me))
        {
            self.write(Some(&lease), &self.name, "").await?;
            info!("released the Lease");
        }
        Ok(())
    }
}
