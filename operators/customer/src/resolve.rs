//! Customer + Plan → what the customer shall have. Pure: no client, no cluster.

use std::collections::BTreeMap;

use ahoi_api::{
    ConnectionPoolFeature, ConnectionPoolSpec, Credentials, Customer, CustomerNamespaceSpec, DatabaseFeature,
    DatabaseSpec, Features, JobTemplate, LocalRef, NamespacedRef, Plan, PlanLimits, PoolState, RunPolicy,
    SchedulerFeature, SchedulerSpec, Size,
};
use ahoi_reconcile::Error;
use k8s_openapi::api::core::v1::EnvVar;
use kube::ResourceExt;

/// The Plan of a Customer that names none, where there is one of that name.
pub const DEFAULT_PLAN: &str = "default";
const DEFAULT_STORAGE: &str = "10Gi";
const DEFAULT_WORKERS: i32 = 1;
const DEFAULT_FLEET: &str = "global";

/// What a customer shall have. `None` is a feature that is off.
#[derive(Debug)]
pub struct Wanted {
    pub name: String,
    pub plan: Option<String>,
    pub suspended: bool,
    pub namespace: CustomerNamespaceSpec,
    pub database: Option<DatabaseSpec>,
    pub connection_pool: Option<ConnectionPoolSpec>,
    /// Without its binding, which is known only once the database or the pool is there.
    pub scheduler: Option<SchedulerSpec>,
    pub webhooks: bool,
    pub previews: bool,
}

/// Joins Customer and Plan and checks what admission cannot see. An error leaves what already runs as it is.
pub fn resolve(customer: &Customer, plan: Option<&Plan>, suite_namespace: &str) -> Result<Wanted, Error> {
    let none = Features::default();
    let own = &customer.spec.features;
    let planned = plan.map_or(&none, |plan| &plan.spec.features);

    let database = database(own.database.as_ref(), planned.database.as_ref());
    let connection_pool = connection_pool(customer, planned, database.is_some(), suite_namespace)?;
    let scheduler = scheduler(customer, planned.scheduler.as_ref());
    let wanted = Wanted {
        name: customer.name_any(),
        plan: plan.map(ResourceExt::name_any),
        suspended: customer.spec.run_policy == RunPolicy::Suspended,
        namespace: CustomerNamespaceSpec {
            guardrails: plan.map(|plan| plan.spec.guardrails.clone()).unwrap_or_default(),
            groups: customer.spec.groups.clone(),
            direct_database: database.is_some(),
            ..CustomerNamespaceSpec::default()
        },
        database,
        connection_pool,
        scheduler,
        webhooks: enabled(&own.webhooks, &planned.webhooks, |f| f.enabled).unwrap_or(false),
        previews: enabled(&own.previews, &planned.previews, |f| f.enabled).unwrap_or(false),
    };
    if let Some(plan) = plan {
        within(&wanted, &plan.spec.limits, &plan.name_any())?;
    }
    Ok(wanted)
}

/// The Customer's word, else the Plan's.
fn enabled<F>(own: &Option<F>, planned: &Option<F>, flag: impl Fn(&F) -> Option<bool>) -> Option<bool> {
    own.as_ref().and_then(&flag).or_else(|| planned.as_ref().and_then(&flag))
}

/// A field of a feature: the Customer's where it is set, else the Plan's.
fn field<F, T>(own: Option<&F>, planned: Option<&F>, get: impl Fn(&F) -> Option<T>) -> Option<T> {
    own.and_then(&get).or_else(|| planned.and_then(&get))
}

fn database(own: Option<&DatabaseFeature>, planned: Option<&DatabaseFeature>) -> Option<DatabaseSpec> {
    field(own, planned, |f| f.enabled).unwrap_or(false).then(|| database_spec(own, planned))
}

/// The database that the customer would have if the feature were on.
pub fn database_if_on(customer: &Customer, plan: Option<&Plan>) -> DatabaseSpec {
    let planned = plan.and_then(|plan| plan.spec.features.database.as_ref());
    database_spec(customer.spec.features.database.as_ref(), planned)
}

fn database_spec(own: Option<&DatabaseFeature>, planned: Option<&DatabaseFeature>) -> DatabaseSpec {
    DatabaseSpec {
        storage: field(own, planned, |f| f.storage.clone()).unwrap_or_else(|| Size::from(DEFAULT_STORAGE)),
        server_selector: field(own, planned, |f| f.server_selector.clone()).unwrap_or_default(),
        connection_limit: field(own, planned, |f| f.connection_limit),
        parameters: joined(
            planned.and_then(|f| f.parameters.clone()).unwrap_or_default(),
            own.and_then(|f| f.parameters.clone()).unwrap_or_default(),
        ),
        extensions: field(own, planned, |f| f.extensions.clone()).unwrap_or_default(),
        credentials: credentials(own, planned),
        // What a toggle or a lost parent removes must not destroy data: only offboarding writes the customer's policy.
        deletion_policy: ahoi_api::DeletionPolicy::Retain,
    }
}

/// None where nobody says anything about them.
fn credentials(own: Option<&DatabaseFeature>, planned: Option<&DatabaseFeature>) -> Option<Credentials> {
    let said = |get: fn(&Credentials) -> Option<String>| field(own, planned, |f| f.credentials.as_ref().and_then(get));
    let credentials = Credentials {
        rotation_interval: said(|c| c.rotation_interval.clone()),
        rotation_trigger: said(|c| c.rotation_trigger.clone()),
    };
    (credentials != Credentials::default()).then_some(credentials)
}

fn connection_pool(
    customer: &Customer,
    planned: &Features,
    has_database: bool,
    suite_namespace: &str,
) -> Result<Option<ConnectionPoolSpec>, Error> {
    let own = customer.spec.features.connection_pool.as_ref();
    let planned = planned.connection_pool.as_ref();
    // The Plan's word about pools is about customers with a database; the Customer's own word is an order.
    let asked = own.and_then(|f: &ConnectionPoolFeature| f.enabled);
    if asked == Some(true) && !has_database {
        return Err(Error::terminal(
            "PoolNeedsDatabase",
            "spec.features.connectionPool.enabled is true and the customer has no database: enable database or disable connectionPool",
        ));
    }
    let on = has_database && asked.or_else(|| planned.and_then(|f| f.enabled)).unwrap_or(true);
    if !on {
        return Ok(None);
    }
    Ok(Some(ConnectionPoolSpec {
        database_ref: LocalRef { name: customer.name_any() },
        pg_bouncer_ref: field(own, planned, |f| f.pg_bouncer_ref.clone())
            .unwrap_or_else(|| NamespacedRef { namespace: suite_namespace.to_owned(), name: DEFAULT_FLEET.to_owned() }),
        pool_mode: field(own, planned, |f| f.pool_mode),
        pool_size: field(own, planned, |f| f.pool_size),
        max_client_connections: field(own, planned, |f| f.max_client_connections),
        query_timeout_seconds: field(own, planned, |f| f.query_timeout_seconds),
        idle_transaction_timeout_seconds: field(own, planned, |f| f.idle_transaction_timeout_seconds),
        reconnect: field(own, planned, |f| f.reconnect.clone()),
        state: match customer.spec.run_policy {
            RunPolicy::Running => PoolState::Active,
            RunPolicy::Suspended => PoolState::Disabled,
        },
    }))
}

fn scheduler(customer: &Customer, planned: Option<&SchedulerFeature>) -> Option<SchedulerSpec> {
    let own = customer.spec.features.scheduler.as_ref();
    if !field(own, planned, |f| f.enabled).unwrap_or(false) {
        return None;
    }
    Some(SchedulerSpec {
        workers: field(own, planned, |f| f.workers).unwrap_or(DEFAULT_WORKERS),
        // Empty is said by the feature's own condition; the rest of the customer does not wait for it.
        image: field(own, planned, |f| f.image.clone()).unwrap_or_default(),
        command: field(own, planned, |f| f.command.clone()).unwrap_or_default(),
        env: by_name(planned.and_then(|f| f.env.clone()), own.and_then(|f| f.env.clone()), |e: &EnvVar| e.name.clone()),
        resources: field(own, planned, |f| f.resources.clone()),
        readiness: field(own, planned, |f| f.readiness.clone()),
        binding: None,
        jobs: by_name(planned.and_then(|f| f.jobs.clone()), own.and_then(|f| f.jobs.clone()), |j: &JobTemplate| {
            j.name.clone()
        }),
        migration: field(own, planned, |f| f.migration.clone()),
        run_policy: customer.spec.run_policy,
    })
}

fn joined(mut base: BTreeMap<String, String>, over: BTreeMap<String, String>) -> BTreeMap<String, String> {
    base.extend(over);
    base
}

/// Both lists, an entry of the second replacing the one of that name in the first; order is kept.
fn by_name<T>(base: Option<Vec<T>>, over: Option<Vec<T>>, name: impl Fn(&T) -> String) -> Vec<T> {
    let mut all = base.unwrap_or_default();
    for item in over.unwrap_or_default() {
        match all.iter_mut().find(|known| name(known) == name(&item)) {
            Some(known) => *known = item,
            None => all.push(item),
        }
    }
    all
}

/// The Plan's limits, each with the field that exceeds it.
fn within(wanted: &Wanted, limits: &PlanLimits, plan: &str) -> Result<(), Error> {
    let exceeds = |field: &str, has: String, limit: String| {
        Err(Error::terminal(
            "ExceedsPlan",
            format!(
                "spec.features.{field} is {has} and the plan {plan} allows at most {limit}: lower it or choose another plan"
            ),
        ))
    };
    if let (Some(scheduler), Some(most)) = (&wanted.scheduler, limits.max_workers)
        && scheduler.workers > most
    {
        return exceeds("scheduler.workers", scheduler.workers.to_string(), most.to_string());
    }
    if let (Some(scheduler), Some(most)) = (&wanted.scheduler, limits.max_jobs)
        && i32::try_from(scheduler.jobs.len()).unwrap_or(i32::MAX) > most
    {
        return exceeds("scheduler.jobs", format!("{} jobs", scheduler.jobs.len()), most.to_string());
    }
    if let (Some(database), Some(most)) = (&wanted.database, &limits.max_storage)
        && bytes("database.storage", &database.storage)? > bytes("database.storage", most)?
    {
        return exceeds("database.storage", database.storage.to_string(), most.to_string());
    }
    if let (Some(size), Some(most)) = (wanted.connection_pool.as_ref().and_then(|p| p.pool_size), limits.max_pool_size)
        && size > most
    {
        return exceeds("connectionPool.poolSize", size.to_string(), most.to_string());
    }
    Ok(())
}

/// Bytes of a size that admission has already looked at.
pub fn bytes(field: &str, size: &Size) -> Result<i64, Error> {
    size.bytes().map_err(|e| Error::terminal("InvalidSize", format!("spec.features.{field}: {e}")))
}

#[cfg(test)]
#[path = "resolve_tests.rs"]
mod tests;
