//! Which pools a change elsewhere concerns. All of it from memory.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use ahoi_api::{ClientTlsMode, ConnectionPool, Database, DatabaseServer, POOLER_CERTIFICATES_SECRET, PgBouncer};
use ahoi_pgbouncer::pool::place;
use ahoi_reconcile::{Cache, ObjectRef};
use k8s_openapi::api::core::v1::Secret;
use kube::{Resource, ResourceExt};

use crate::placement::NO_ROOM;

type Wakings = Vec<ObjectRef<ConnectionPool>>;

/// The pools, and which of them lead to a database.
#[derive(Clone)]
pub struct Wake {
    pools: Cache<ConnectionPool>,
    by_database: Arc<Mutex<ByDatabase>>,
}

/// Names of pools by the namespace and the name of their database. It may name pools that are gone or lead elsewhere by now:
/// who looks asks the cache again.
type ByDatabase = HashMap<(String, String), HashSet<String>>;

impl Wake {
    pub fn new(pools: &Cache<ConnectionPool>) -> Self {
        Wake { pools: pools.clone(), by_database: Arc::default() }
    }

    /// Keeps the index; wakes nobody.
    pub fn remember(&self) -> impl Fn(&ConnectionPool) -> Wakings + Send + Sync + 'static {
        let by_database = self.by_database.clone();
        move |pool| {
            let key = (pool.namespace().unwrap_or_default(), pool.spec.database_ref.name.clone());
            by_database.lock().unwrap_or_else(PoisonError::into_inner).entry(key).or_default().insert(pool.name_any());
            Vec::new()
        }
    }

    /// A Database wakes the pools that lead to it.
    pub fn of_database(&self) -> impl Fn(&Database) -> Wakings + Send + Sync + 'static {
        let wake = self.clone();
        move |database| wake.leading_to(database.namespace().unwrap_or_default(), database.name_any())
    }

    /// A Database's Secret wakes the pools that lead to the Database.
    pub fn of_secret(&self) -> impl Fn(&Secret) -> Wakings + Send + Sync + 'static {
        let wake = self.clone();
        move |secret| {
            let owners = secret.owner_references().iter().filter(|owner| owner.kind == Database::kind(&()));
            let namespace = secret.namespace().unwrap_or_default();
            owners.flat_map(|owner| wake.leading_to(namespace.clone(), owner.name.clone())).collect()
        }
    }

    /// A DatabaseServer wakes the pools that lead to it or wait for one. It changes rarely, so all pools are looked at.
    pub fn of_server(&self) -> impl Fn(&DatabaseServer) -> Wakings + Send + Sync + 'static {
        let pools = self.pools.clone();
        move |server| {
            let name = server.name_any();
            let route = |pool: &ConnectionPool| {
                pool.status.as_ref().and_then(|status| status.route.as_ref()).map(|route| route.server == name)
            };
            refs(&pools, |pool| route(pool).unwrap_or(true))
        }
    }

    /// A PgBouncer wakes those of its pools that wait for its agents, and all of them when its spec is another.
    pub fn of_fleet(&self) -> impl Fn(&PgBouncer) -> Wakings + Send + Sync + 'static {
        let pools = self.pools.clone();
        let generations: Mutex<HashMap<String, i64>> = Mutex::default();
        move |fleet| {
            let (namespace, name) = (fleet.namespace().unwrap_or_default(), fleet.name_any());
            let generation = fleet.metadata.generation.unwrap_or_default();
            let mut generations = generations.lock().unwrap_or_else(PoisonError::into_inner);
            let other = generations.insert(fleet.uid().unwrap_or_default(), generation) != Some(generation);
            refs(&pools, |pool| {
                let fleet = &pool.spec.pg_bouncer_ref;
                fleet.name == name && fleet.namespace == namespace && (other || (waits(pool) && !is_shut_out(pool)))
            })
        }
    }

    /// A pool that leaves wakes those for which there was no room in its fleet.
    pub fn of_leaving(&self) -> impl Fn(&ConnectionPool) -> Wakings + Send + Sync + 'static {
        let pools = self.pools.clone();
        move |leaving| {
            if leaving.metadata.deletion_timestamp.is_none() {
                return Vec::new();
            }
            let fleet = place(leaving).fleet;
            refs(&pools, |pool| pool.spec.pg_bouncer_ref == fleet && is_shut_out(pool))
        }
    }

    /// The certificates of fleets wake the pools in fleets that have one: clients verify them by what is in the pools'
    /// Secrets.
    pub fn of_certificates(&self, fleets: &Cache<PgBouncer>) -> impl Fn(&Secret) -> Wakings + Send + Sync + 'static {
        let (pools, fleets) = (self.pools.clone(), fleets.clone());
        move |secret| {
            if secret.name_any() != POOLER_CERTIFICATES_SECRET {
                return Vec::new();
            }
            refs(&pools, |pool| {
                let fleet = &pool.spec.pg_bouncer_ref;
                let fleet = fleets.get_in(&fleet.namespace, &fleet.name);
                fleet.is_some_and(|fleet| fleet.spec.tls.client.mode != ClientTlsMode::Disable)
            })
        }
    }

    fn leading_to(&self, namespace: String, database: String) -> Wakings {
        let mut by_database = self.by_database.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (namespace, database);
        let Some(names) = by_database.get_mut(&key) else { return Vec::new() };
        names.retain(|name| self.pools.get_in(&key.0, name).is_some_and(|pool| pool.spec.database_ref.name == key.1));
        let wakings = names.iter().map(|name| ObjectRef::new(name).within(&key.0)).collect();
        if names.is_empty() {
            by_database.remove(&key);
        }
        wakings
    }
}

fn is_shut_out(pool: &ConnectionPool) -> bool {
    let conditions = pool.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    conditions.iter().any(|condition| condition.type_ == "Stalled" && condition.reason == NO_ROOM)
}

fn waits(pool: &ConnectionPool) -> bool {
    let conditions = pool.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    let route = pool.status.as_ref().and_then(|status| status.route.as_ref());
    pool.metadata.deletion_timestamp.is_some()
        || route.is_some_and(|route| route.retiring.is_some())
        || !conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

fn refs(pools: &Cache<ConnectionPool>, concerned: impl Fn(&ConnectionPool) -> bool) -> Wakings {
    pools.all().iter().filter(|pool| concerned(pool)).map(|pool| ObjectRef::from_obj(&**pool)).collect()
}
