//! What both controllers share: the caches, the connections to PostgreSQL, and what is kept in memory.

use std::sync::Arc;
use std::time::Duration;

use ahoi_api::{Database, DatabaseServer, Reason};
use ahoi_reconcile::{Error, Platform, Trigger};
use k8s_openapi::api::core::v1::Namespace;
use kube::{Api, ResourceExt};
use tracing::warn;

use crate::caches::Caches;
use crate::endpoint;
use crate::memory::{Instance, Memories};
use crate::metrics::Metrics;
use crate::outage::{self, Outages, is_usable};
use crate::placement::Placements;
use crate::postgres::failure::{server_read_only, unreachable};
use crate::postgres::ownership::Cluster;
use crate::postgres::server::PostgresServers;
use crate::remembered::Remembered;

/// What both controllers share.
pub struct Context {
    /// Client, events, namespace.
    pub platform: Platform,
    /// Objects of the cluster.
    pub caches: Caches,
    /// Identity of the cluster.
    pub cluster: Cluster,
    /// Connections to every server.
    pub servers: PostgresServers,
    /// What the sweeps have found on every server.
    pub memories: Memories,
    /// Databases that are being triggered to report the begin or the end of an outage.
    pub outages: Outages,
    /// Held while the pending removals of a server are changed.
    pub removals: tokio::sync::Mutex<()>,
    /// Passwords that no Secret contains yet.
    pub remembered: Remembered,
    /// Servers that were assigned a moment ago.
    pub placements: Placements,
    /// Metrics of this process.
    pub metrics: Metrics,
    /// Triggers reconciles of Databases.
    pub trigger: Trigger<Database>,
}

/// Delay between attempts to read the identity of the cluster.
const RETRY: Duration = Duration::from_secs(2);

impl Context {
    /// Reads the identity of the cluster. `log_statements` allows servers to log the statements of this process.
    pub async fn new(
        platform: Platform,
        caches: Caches,
        trigger: Trigger<Database>,
        metrics: Metrics,
        log_statements: bool,
    ) -> anyhow::Result<Self> {
        let namespaces: Api<Namespace> = Api::all(platform.client.clone());
        let uid = loop {
            match namespaces.get_metadata("kube-system").await {
                Ok(system) => break system.uid().unwrap_or_default(),
                // Retried here: a process that exits would be restarted with growing delays.
                Err(error) => warn!(%error, "cannot read the namespace kube-system; retrying"),
            }
            tokio::select! {
                () = tokio::time::sleep(RETRY) => {}
                () = platform.shutdown().cancelled() => anyhow::bail!("stopped before the cluster was identified"),
            }
        };
        Ok(Context {
            cluster: Cluster::new(uid),
            metrics,
            servers: PostgresServers::new(log_statements),
            memories: Memories::default(),
            outages: Outages::default(),
            removals: tokio::sync::Mutex::default(),
            remembered: Remembered::default(),
            placements: Placements::default(),
            caches,
            platform,
            trigger,
        })
    }

    /// The connections to a server, with the login of its admin Secret, and what is remembered about it.
    pub fn instance(&self, server: &DatabaseServer) -> Result<Instance, Error> {
        let endpoint = endpoint::of(server, &self.caches.secrets, self.platform.namespace())?;
        let postgres = self.servers.connect(endpoint);
        Ok(Instance { name: server.name_any(), postgres, memory: self.memories.of(server) })
    }

    /// Closes the connections to deleted servers, and forgets them.
    pub fn forget_deleted_servers(&self) {
        let exists = |name: &str| self.caches.servers.get(name).is_some();
        self.servers.retain(exists);
        self.memories.retain(exists);
    }

    /// The Databases on a server.
    pub fn placed_on(&self, server: &str) -> Vec<Arc<Database>> {
        let mut databases = self.caches.databases.all();
        databases
            .retain(|database| database.status.as_ref().is_some_and(|status| status.server.as_deref() == Some(server)));
        databases
    }

    /// The server of a Database, if it is usable.
    pub fn usable(&self, name: &str) -> Result<(Arc<DatabaseServer>, Instance), Error> {
        let Some(server) = self.caches.servers.find("", name)? else {
            return Err(Error::structural(
                Reason::DatabaseServerNotFound,
                format!("DatabaseServer {name} does not exist: create it again with its former spec"),
            ));
        };
        if !is_usable(&server) {
            return Err(match outage::ready_reason(&server) {
                Some(Reason::DatabaseServerUnreachable) => unreachable(name),
                Some(Reason::DatabaseServerReadOnly) => server_read_only(name),
                _ => Error::waiting(Reason::WaitingForDatabaseServer, format!("DatabaseServer {name} is not Ready")),
            });
        }
        let instance = self.instance(&server)?;
        Ok((server, instance))
    }
}

#[cfg(test)]
mod tests;
