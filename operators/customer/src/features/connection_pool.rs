//! The feature `connectionPool`.

use ahoi_api::{ConnectionPool, ConnectionPoolSpec, Customer, PoolState, RunPolicy, finalizers};
use ahoi_reconcile::is_ready;
use kube::ResourceExt;

use super::chain::Chain;
use super::feature::{Desired, Feature, awaits_namespace, wait_for_namespace};
use super::report::state_of;
use crate::children::child_meta;
use crate::wanted::Wanted;

pub struct ConnectionPoolFeature;

impl Feature for ConnectionPoolFeature {
    type Child = ConnectionPool;
    const NAME: &'static str = "connectionPool";
    const CONDITION: &'static str = "ConnectionPoolReady";
    const FIELDS: &'static [&'static str] = &[
        "poolMode",
        "poolSize",
        "maxClientConnections",
        "queryTimeoutSeconds",
        "idleTransactionTimeoutSeconds",
        "pgBouncerRef",
    ];

    fn desired(wanted: &Wanted, chain: &Chain) -> Desired<ConnectionPool> {
        let Some(spec) = &wanted.connection_pool else {
            return if workers_use_it(chain) {
                Desired::Linger { message: "waiting for the workers to leave the pool" }
            } else {
                Desired::Off
            };
        };
        if awaits_namespace(chain.connection_pool.as_ref(), chain) {
            return wait_for_namespace(wanted);
        }
        // A pool that exists is kept up to date whatever the database is doing: only a new one waits for it.
        if chain.connection_pool.is_none() && !chain.database.as_deref().is_some_and(is_ready) {
            let message = format!("waiting for Database {}: the condition DatabaseReady says why", wanted.name);
            return Desired::Wait { reason: "WaitingForDatabase", message };
        }
        let migration = last_migration(chain).cloned();
        Desired::Child(Box::new(pool(&wanted.name, ConnectionPoolSpec { migration, ..spec.clone() })))
    }

    fn essential(customer: &Customer, child: &ConnectionPool) -> ConnectionPool {
        let state = pool_state(customer.spec.run_policy);
        pool(&customer.name_any(), ConnectionPoolSpec { state, ..child.spec.clone() })
    }
}

/// The state of the route of a customer whose workload runs, or is suspended.
pub fn pool_state(run_policy: RunPolicy) -> PoolState {
    match run_policy {
        RunPolicy::Running => PoolState::Active,
        RunPolicy::Suspended => PoolState::Disabled,
    }
}

fn pool(customer: &str, spec: ConnectionPoolSpec) -> ConnectionPool {
    let mut child = ConnectionPool::new(customer, spec);
    child.metadata = child_meta::<ConnectionPool>(customer, Some(finalizers::CONNECTION_POOL));
    child
}

/// The migration after which the pool replaces its server connections.
pub fn last_migration(chain: &Chain) -> Option<&String> {
    chain.scheduler.as_ref()?.status.as_ref()?.migration.as_ref()
}

/// Whether workers still have the pool's address, or are being rolled to another one.
fn workers_use_it(chain: &Chain) -> bool {
    let (Some(scheduler), Some(pool)) = (&chain.scheduler, &chain.connection_pool) else {
        return false;
    };
    let bound = scheduler.spec.binding.as_ref().map(|b| &b.name);
    let pooled = pool.status.as_ref().and_then(|s| s.binding.as_ref()).map(|b| &b.name);
    let stalled = state_of(&**scheduler).0 == ahoi_api::FeatureState::Stalled;
    pooled.is_some() && (bound == pooled || !(is_ready(&**scheduler) || stalled))
}
