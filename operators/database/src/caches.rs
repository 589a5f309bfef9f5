//! The caches of both controllers, and which objects a change in one of them concerns.

use std::collections::HashMap;

use ahoi_api::{ConnectionPool, Database, DatabaseServer, PgBouncer};
use ahoi_reconcile::{Cache, ObjectRef, Owned, Platform, is_ready, watcher};
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, ResourceExt};
use parking_lot::Mutex;

use crate::outage;
use crate::secret::{self, AUTHORITIES_BYTES};

/// What the controllers watch.
pub struct Caches {
    /// All DatabaseServers.
    pub servers: Cache<DatabaseServer>,
    /// All Databases.
    pub databases: Cache<Database>,
    /// All PgBouncers: their agents report the state of servers.
    pub fleets: Cache<PgBouncer>,
    /// All ConnectionPools: they report when a former login is unused.
    pub connection_pools: Cache<ConnectionPool>,
    /// The binding Secrets of Databases.
    pub bindings: Owned<Secret>,
    /// The Secrets in the namespace of the controllers.
    pub secrets: Cache<Secret>,
}

impl Caches {
    /// Starts to watch.
    pub fn new(platform: &Platform) -> Self {
        let bindings = watcher::Config::default().labels(&format!("{}=direct", ahoi_api::BINDING_LABEL));
        let databases = platform.watch_all();
        let bindings = platform.cache_secrets(bindings, &databases, secret::SUFFIX, drop_other_data);
        Caches {
            servers: platform.watch_all(),
            databases,
            fleets: platform.watch_all(),
            connection_pools: platform.watch_all(),
            bindings: Owned::new(platform, &bindings).recreated_if(secret::must_be_recreated).recreated_if_refused(),
            secrets: platform
                .cache(Api::namespaced(platform.client.clone(), platform.namespace()), watcher::Config::default()),
        }
    }

    /// The DatabaseServers that refer to a Secret.
    pub fn servers_of_secret(&self) -> impl Fn(&Secret) -> Vec<ObjectRef<DatabaseServer>> + Send + Sync + 'static {
        let servers = self.servers.clone();
        move |secret| {
            let mut found = servers.all();
            found.retain(|server| {
                server.spec.admin_secret_ref.name == secret.name_any() || names_authorities(server, secret)
            });
            found.iter().map(|server| ObjectRef::from_obj(&**server)).collect()
        }
    }

    /// The Databases on the servers whose authorities are in a Secret: their binding Secrets contain them as well.
    pub fn databases_of_secret(&self) -> impl Fn(&Secret) -> Vec<ObjectRef<Database>> + Send + Sync + 'static {
        let (servers, databases) = (self.servers.clone(), self.databases.clone());
        move |secret| {
            let mut named = servers.all();
            named.retain(|server| names_authorities(server, secret));
            if named.is_empty() {
                return Vec::new();
            }
            let mut affected = databases.all();
            affected.retain(|database| {
                let on = database.status.as_ref().and_then(|status| status.server.as_deref());
                named.iter().any(|server| on == Some(&server.name_any()))
            });
            affected.iter().map(|database| ObjectRef::from_obj(&**database)).collect()
        }
    }

    /// The Databases that a change of a server concerns; most changes are only counts. If a server becomes unreachable or reachable
    /// again, only the Databases that wait for it are reconciled.
    pub fn databases_of_server(&self) -> impl Fn(&DatabaseServer) -> Vec<ObjectRef<Database>> + Send + Sync + 'static {
        let (servers, databases) = (self.servers.clone(), self.databases.clone());
        let known: Mutex<HashMap<String, Relevant>> = Mutex::default();
        move |server| {
            let name = server.name_any();
            let now = servers.get(&name).map(|server| relevant(&server)).unwrap_or_default();
            let before = known.lock().insert(name.clone(), now.clone());
            if before.as_ref() == Some(&now) {
                return Vec::new();
            }
            let concerns_all = before.is_none_or(|before| before.to_all != now.to_all);
            let mut affected = databases.all();
            affected.retain(|database| {
                let on = database.status.as_ref().and_then(|status| status.server.as_ref());
                // The controller of servers triggers those that report an outage one after the other.
                let waits = || !is_ready(&**database) && (on.is_none() || !outage::is_reported(database));
                on.is_none_or(|on| *on == name) && (concerns_all || waits())
            });
            affected.iter().map(|database| ObjectRef::from_obj(&**database)).collect()
        }
    }
}

/// More than the size of any binding Secret with its authorities, whose size is limited.
const BINDING_BYTES: usize = 2 * AUTHORITIES_BYTES;

/// Drops the data of a Secret that is no binding, since tenants may write it. Such a Secret counts as lost, and another login is
/// published.
pub fn drop_other_data(secret: &mut Secret) {
    let bytes: usize = secret.data.iter().flatten().map(|(_, value)| value.0.len()).sum();
    if bytes > BINDING_BYTES || secret.type_.as_deref() != Some(ahoi_api::BINDING_SECRET_TYPE) {
        secret.data = None;
    }
}

fn names_authorities(server: &DatabaseServer, secret: &Secret) -> bool {
    server.spec.tls.ca_secret_ref.as_ref().is_some_and(|reference| reference.name == secret.name_any())
}

/// What Databases need to know about a server, in one text for all of them and one for those that wait for a server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Relevant {
    to_all: String,
    to_waiting: String,
}

fn relevant(server: &DatabaseServer) -> Relevant {
    let spec = &server.spec;
    let passwords = server.status.as_ref().and_then(|status| status.passwords);
    let address = (server.uid(), &spec.host, spec.port, &spec.tls, passwords);
    let others = (&spec.adopt_from_cluster, &spec.shared_with_clusters);
    let ready = outage::ready_reason(server);
    let capacity = (server.labels(), ready, spec.placement, &spec.max_databases, &spec.max_storage, others);
    Relevant { to_all: format!("{address:?}"), to_waiting: format!("{capacity:?}") }
}

#[cfg(test)]
mod tests;
