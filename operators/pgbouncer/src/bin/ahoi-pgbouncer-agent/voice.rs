//! Saying in the PgBouncer's status what is true of this process.

use std::time::Duration;

use ahoi_api::{NamespacedRef, PgBouncer, ProcessStatus};
use ahoi_pgbouncer::fleet::{field_manager, reports};
use ahoi_pgbouncer::pool::Pool;
use ahoi_pgbouncer::report::worth_saying;
use ahoi_reconcile::Platform;
use kube::api::{Patch, PatchParams};
use kube::{Api, Resource};
use serde_json::json;
use tokio::time::timeout;
use tracing::warn;

/// Longest wait for a word to be taken: meanwhile nobody looks after pgbouncer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Writes this process's entry of the status, and remembers it.
pub struct Voice {
    api: Api<PgBouncer>,
    /// What was last said, and the version of the PgBouncer that says so.
    said: Option<(i64, ProcessStatus)>,
}

impl Voice {
    pub fn new(platform: &Platform, fleet: &NamespacedRef) -> Self {
        Voice { api: Api::namespaced(platform.client.clone(), &fleet.namespace), said: None }
    }

    /// Says it, if it is news to somebody. What could not be said is still news at the next turn.
    pub async fn say(&mut self, status: &ProcessStatus, fleet: &PgBouncer, pools: &[Pool]) {
        let awaited = pools.iter().filter(|pool| pool.awaited()).map(|pool| pool.version).max();
        let last = match &self.said {
            // Our own words, which the cache has not seen yet.
            Some((version, said)) if *version > version_of(fleet) => Some(said),
            _ => reports(fleet).iter().find(|entry| entry.pod == status.pod),
        };
        if !worth_saying(last, status, awaited) {
            return;
        }
        match timeout(PATIENCE, self.write(status, fleet)).await {
            Ok(Ok(version)) => self.said = Some((version, status.clone())),
            Ok(Err(error)) => warn!(%error, "the status of the PgBouncer could not be written"),
            Err(_) => warn!("the status of the PgBouncer could not be written: no answer in time"),
        }
    }

    /// Each agent's entry is its own: a list map, and a field manager for each, keep them apart.
    async fn write(&self, status: &ProcessStatus, fleet: &PgBouncer) -> Result<i64, kube::Error> {
        let name = fleet.metadata.name.as_deref().unwrap_or_default();
        let params = PatchParams::apply(&field_manager(&status.pod)).force();
        let patch = json!({
            "apiVersion": PgBouncer::api_version(&()),
            "kind": PgBouncer::kind(&()),
            "metadata": {"name": name, "uid": fleet.metadata.uid},
            "status": {"processes": [status]},
        });
        let written = self.api.patch_status(name, &params, &Patch::Apply(patch)).await?;
        Ok(version_of(&written))
    }
}

fn version_of(fleet: &PgBouncer) -> i64 {
    fleet.metadata.resource_version.as_deref().and_then(|version| version.parse().ok()).unwrap_or(0)
}
