//! Writes the report of this process into the status of its PgBouncer.

use std::time::Duration;

use ahoi_api::{NamespacedRef, PgBouncer, ProcessStatus};
use ahoi_pgbouncer::fleet::{field_manager, reports};
use ahoi_pgbouncer::pool::Pool;
use ahoi_pgbouncer::report::is_news;
use ahoi_reconcile::Platform;
use kube::api::{Patch, PatchParams};
use kube::{Api, Resource};
use serde_json::json;
use tokio::time::timeout;
use tracing::warn;

/// Maximum time for one write: meanwhile the agent does not supervise pgbouncer.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);

/// Writes the entry of this process, if there is news.
pub struct StatusReporter {
    api: Api<PgBouncer>,
    /// The last written report, and the version of the PgBouncer with it.
    written: Option<(i64, ProcessStatus)>,
}

impl StatusReporter {
    pub fn new(platform: &Platform, fleet: &NamespacedRef) -> Self {
        StatusReporter { api: Api::namespaced(platform.client.clone(), &fleet.namespace), written: None }
    }

    /// Writes the report if it contains news. After a failure it is still news at the next reconcile.
    pub async fn report(&mut self, status: &ProcessStatus, fleet: &PgBouncer, pools: &[Pool]) {
        let awaited = pools.iter().filter(|pool| pool.awaited()).map(|pool| pool.version).max();
        let last = match &self.written {
            // The cache does not have this write yet.
            Some((version, written)) if *version > version_of(fleet) => Some(written),
            _ => reports(fleet).iter().find(|entry| entry.pod == status.pod),
        };
        if !is_news(last, status, awaited) {
            return;
        }
        match timeout(WRITE_TIMEOUT, self.write(status, fleet)).await {
            Ok(Ok(version)) => self.written = Some((version, status.clone())),
            Ok(Err(error)) => warn!(%error, "cannot write the status of the PgBouncer"),
            Err(_) => warn!(timeout = ?WRITE_TIMEOUT, "cannot write the status of the PgBouncer: no answer"),
        }
    }

    /// Each agent owns its entry of a list map, by a field manager of its own.
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
