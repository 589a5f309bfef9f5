//! The feature `connectionPool`.

use ahoi_api::{
    ConnectionPool, ConnectionPoolSpec, Customer, FeatureState, Features, LocalRef, NamespacedRef, PoolState, Reason,
    RunPolicy, finalizers,
};
use ahoi_reconcile::is_ready;
use kube::ResourceExt;

use super::chain::Chain;
use super::database::DatabaseFeature;
use super::feature::{Desired, Feature, awaits_namespace, wait_for_namespace};
use super::inputs::Inputs;
use super::limits::{Limit, replace};
use super::report::state_of;
use crate::children::child_meta;
use crate::held::Held;
use crate::wanted::Wanted;

const DEFAULT_FLEET: &str = "global";

/// The connection pool of a customer.
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

    fn enabled(features: &Features) -> Option<bool> {
        features.connection_pool.as_ref()?.enabled
    }

    fn resolve(inputs: &Inputs<'_>, wanted: &mut Wanted) -> Option<ConnectionPoolSpec> {
        let has_database = inputs.enabled(DatabaseFeature::enabled).unwrap_or(false);
        // The Plan enables pools for customers with a database. A Customer that enables one without a database is mistaken.
        if Self::enabled(&inputs.customer.spec.features) == Some(true) && !has_database {
            wanted.held.push(Held::of(
                Self::NAME,
                Reason::PoolNeedsDatabase,
                "spec.features.connectionPool.enabled is true and the customer has no database: set \
                 spec.features.database.enabled to true, or spec.features.connectionPool.enabled to false",
            ));
        }
        if !has_database || !inputs.enabled(Self::enabled).unwrap_or(true) {
            return None;
        }
        let pool = inputs.settings(|features| features.connection_pool.as_ref());
        Some(ConnectionPoolSpec {
            database_ref: LocalRef { name: inputs.customer.name_any() },
            pg_bouncer_ref: pool.field(|f| f.pg_bouncer_ref.clone()).unwrap_or_else(|| NamespacedRef {
                namespace: inputs.system_namespace.to_owned(),
                name: DEFAULT_FLEET.to_owned(),
            }),
            pool_mode: pool.field(|f| f.pool_mode),
            pool_size: pool.field(|f| f.pool_size),
            max_client_connections: pool.field(|f| f.max_client_connections),
            query_timeout_seconds: pool.field(|f| f.query_timeout_seconds),
            idle_transaction_timeout_seconds: pool.field(|f| f.idle_transaction_timeout_seconds),
            reconnect_request: pool.field(|f| f.reconnect_request.clone()),
            // Known once it has run: see `desired`.
            migration: None,
            state: pool_state(inputs.customer.spec.run_policy),
        })
    }

    fn adjust(inputs: &Inputs<'_>, wanted: &mut Wanted) {
        let Some(plan) = inputs.plan else { return };
        let size = wanted.connection_pool.as_ref().and_then(|pool| pool.pool_size);
        let Some((size, most)) = size.zip(plan.spec.limits.max_pool_size).filter(|(size, most)| size > most) else {
            return;
        };
        let kept = inputs.in_force.connection_pool.as_deref().map(|pool| pool.spec.pool_size);
        let settings = inputs.settings(|features| features.connection_pool.as_ref());
        let limit = Limit {
            plan,
            feature: Self::NAME,
            field: "poolSize",
            limit: "maxPoolSize",
            most: most.to_string(),
            is_own: settings.own.is_some_and(|f| f.pool_size.is_some()),
        };
        let text = kept.map(|kept| kept.map_or_else(|| "the fleet's default".to_owned(), |kept| kept.to_string()));
        wanted.held.push(limit.exceeded(&size.to_string(), text));
        replace(&mut wanted.connection_pool, kept, |spec, kept| spec.pool_size = kept);
    }

    fn can_stay(wanted: &Wanted) -> bool {
        wanted.database.is_some()
    }

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
        // An existing pool is updated even if the database is not Ready.
        if chain.connection_pool.is_none() && !chain.database.as_deref().is_some_and(is_ready) {
            let message = format!("waiting for Database {}: see the condition DatabaseReady", wanted.name);
            return Desired::Wait { reason: Reason::WaitingForDatabase, message };
        }
        let migration = last_migration(chain).cloned();
        Desired::Child(Box::new(pool(&wanted.name, ConnectionPoolSpec { migration, ..spec.clone() })))
    }

    fn essential(customer: &Customer, child: &ConnectionPool) -> ConnectionPool {
        let state = pool_state(customer.spec.run_policy);
        pool(&customer.name_any(), ConnectionPoolSpec { state, ..child.spec.clone() })
    }
}

/// The state of the pool of a running or suspended customer.
fn pool_state(run_policy: RunPolicy) -> PoolState {
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
    let stalled = state_of(&**scheduler).0 == FeatureState::Stalled;
    pooled.is_some() && (bound == pooled || !(is_ready(&**scheduler) || stalled))
}
