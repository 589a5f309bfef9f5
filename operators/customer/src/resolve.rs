//! Customer + Plan → what the customer shall have. Pure: no client, no cluster.
//!
//! A field that cannot be applied holds back nothing but itself: what is in force stays, and [`Wanted::held`] says why. Where
//! nothing is in force yet, its feature is not created.

use std::collections::BTreeMap;

use ahoi_api::{
    AdoptionPolicy, ConnectionPoolFeature, ConnectionPoolSpec, Credentials, Customer, CustomerNamespaceSpec,
    DatabaseFeature, DatabaseSpec, Features, JobTemplate, LocalRef, NamespacedRef, Plan, RunPolicy, SchedulerFeature,
    SchedulerSpec,
};
use k8s_openapi::api::core::v1::EnvVar;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;

use crate::features::chain::Chain;
use crate::features::connection_pool::ConnectionPoolFeature as Pool;
use crate::features::connection_pool::pool_state;
use crate::features::feature::Feature;
use crate::held::Held;
use crate::limits::apply_limits;
use crate::storage::{self, Storage};
use crate::wanted::Wanted;
use crate::without_plan::without_plan;

const DEFAULT_WORKERS: i32 = 1;
const DEFAULT_FLEET: &str = "global";

/// The Plan that a Customer is on.
#[derive(Clone, Copy, Debug)]
pub enum PlanChoice<'a> {
    Found(&'a Plan),
    /// The Customer names none, and there is none named `default`.
    BuiltIn,
    /// It does not exist, or cannot be read. The text says which one, and what to do.
    Missing {
        reason: &'static str,
        why: &'a str,
    },
}

impl<'a> PlanChoice<'a> {
    /// The Plan, where there is one.
    pub fn found(self) -> Option<&'a Plan> {
        match self {
            PlanChoice::Found(plan) => Some(plan),
            PlanChoice::BuiltIn | PlanChoice::Missing { .. } => None,
        }
    }
}

/// Joins Customer and Plan and checks what admission cannot see, against what is `in_force`.
pub fn resolve(customer: &Customer, plan: PlanChoice<'_>, in_force: &Chain, suite_namespace: &str) -> Wanted {
    if let PlanChoice::Missing { reason, why } = plan {
        return without_plan(customer, reason, why, in_force);
    }
    let plan = plan.found();
    let none = Features::default();
    let own = &customer.spec.features;
    let planned = plan.map_or(&none, |plan| &plan.spec.features);

    let mut held = Vec::new();
    let storage = is_on(own.database.as_ref(), planned.database.as_ref(), |f| f.enabled)
        .then(|| storage::resolve(customer, plan, in_force, &mut held));
    let database = storage.as_ref().and_then(|storage| {
        let size = storage.size.clone()?;
        Some(DatabaseSpec { storage: size, ..database_spec(customer, plan) })
    });
    let connection_pool = connection_pool(customer, planned, storage.is_some(), suite_namespace, &mut held);
    let mut wanted = Wanted {
        name: customer.name_any(),
        plan: plan.map(ResourceExt::name_any),
        suspended: customer.spec.run_policy == RunPolicy::Suspended,
        namespace: Some(CustomerNamespaceSpec {
            guardrails: plan.map(|plan| plan.spec.guardrails.clone()).unwrap_or_default(),
            groups: customer.spec.groups.clone(),
            direct_database: database.is_some(),
            ..CustomerNamespaceSpec::default()
        }),
        database,
        connection_pool,
        scheduler: scheduler(customer, planned.scheduler.as_ref()),
        webhooks: enabled(&own.webhooks, &planned.webhooks, |f| f.enabled).unwrap_or(false),
        previews: enabled(&own.previews, &planned.previews, |f| f.enabled).unwrap_or(false),
        default_storage: storage.and_then(|Storage { default, .. }| default),
        held,
    };
    if let Some(plan) = plan {
        apply_limits(&mut wanted, customer, plan, in_force);
    }
    wanted
}

/// The Customer's word, else the Plan's.
fn enabled<F>(own: &Option<F>, planned: &Option<F>, flag: impl Fn(&F) -> Option<bool>) -> Option<bool> {
    own.as_ref().and_then(&flag).or_else(|| planned.as_ref().and_then(&flag))
}

/// A field of a feature: the Customer's where it is set, else the Plan's.
fn field<F, T>(own: Option<&F>, planned: Option<&F>, get: impl Fn(&F) -> Option<T>) -> Option<T> {
    own.and_then(&get).or_else(|| planned.and_then(&get))
}

/// Whether a feature is on: not unless the Customer or the Plan says so.
fn is_on<F>(own: Option<&F>, planned: Option<&F>, flag: impl Fn(&F) -> Option<bool>) -> bool {
    field(own, planned, flag).unwrap_or(false)
}

/// The database that the customer would have if the feature were on.
pub fn database_if_on(customer: &Customer, plan: Option<&Plan>) -> DatabaseSpec {
    // Its size is held back by nothing: it is for data that exists.
    let storage = storage::resolve(customer, plan, &Chain::default(), &mut Vec::new()).size;
    let spec = database_spec(customer, plan);
    DatabaseSpec { storage: storage.unwrap_or(spec.storage), ..spec }
}

fn database_spec(customer: &Customer, plan: Option<&Plan>) -> DatabaseSpec {
    let own = customer.spec.features.database.as_ref();
    let planned = plan.and_then(|plan| plan.spec.features.database.as_ref());
    DatabaseSpec {
        storage: storage::built_in(),
        server_selector: field(own, planned, |f| f.server_selector.clone()).unwrap_or_default(),
        connection_limit: field(own, planned, |f| f.connection_limit),
        parameters: joined(
            planned.and_then(|f| f.parameters.clone()).unwrap_or_default(),
            own.and_then(|f| f.parameters.clone()).unwrap_or_default(),
        ),
        extensions: field(own, planned, |f| f.extensions.clone()).unwrap_or_default(),
        credentials: credentials(own, planned),
        refuse_data_before: refuse_data_before(customer, plan),
        // What a toggle or a lost parent removes must not destroy data: only offboarding writes the customer's policy.
        deletion_policy: ahoi_api::DeletionPolicy::Retain,
    }
}

/// Data from before the Customer is another's; what it has stored itself is its own, also where its Database was lost.
fn refuse_data_before(customer: &Customer, plan: Option<&Plan>) -> Option<Time> {
    let policy = customer.spec.adoption_policy.or_else(|| plan.and_then(|plan| plan.spec.adoption_policy));
    let is_refused = policy.unwrap_or_default() == AdoptionPolicy::Refuse;
    customer.metadata.creation_timestamp.clone().filter(|_| is_refused)
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
    held: &mut Vec<Held>,
) -> Option<ConnectionPoolSpec> {
    let own = customer.spec.features.connection_pool.as_ref();
    let planned = planned.connection_pool.as_ref();
    // The Plan's word about pools is about customers with a database; the Customer's own word is an order.
    let asked = own.and_then(|f: &ConnectionPoolFeature| f.enabled);
    if asked == Some(true) && !has_database {
        held.push(Held::of(
            Pool::NAME,
            "PoolNeedsDatabase",
            "spec.features.connectionPool.enabled is true and the customer has no database: set \
             spec.features.database.enabled to true, or spec.features.connectionPool.enabled to false",
        ));
    }
    let on = has_database && asked.or_else(|| planned.and_then(|f| f.enabled)).unwrap_or(true);
    if !on {
        return None;
    }
    Some(ConnectionPoolSpec {
        database_ref: LocalRef { name: customer.name_any() },
        pg_bouncer_ref: field(own, planned, |f| f.pg_bouncer_ref.clone())
            .unwrap_or_else(|| NamespacedRef { namespace: suite_namespace.to_owned(), name: DEFAULT_FLEET.to_owned() }),
        pool_mode: field(own, planned, |f| f.pool_mode),
        pool_size: field(own, planned, |f| f.pool_size),
        max_client_connections: field(own, planned, |f| f.max_client_connections),
        query_timeout_seconds: field(own, planned, |f| f.query_timeout_seconds),
        idle_transaction_timeout_seconds: field(own, planned, |f| f.idle_transaction_timeout_seconds),
        reconnect: field(own, planned, |f| f.reconnect.clone()),
        // Known only once it has run.
        migration: None,
        state: pool_state(customer.spec.run_policy),
    })
}

fn scheduler(customer: &Customer, planned: Option<&SchedulerFeature>) -> Option<SchedulerSpec> {
    let own = customer.spec.features.scheduler.as_ref();
    if !is_on(own, planned, |f| f.enabled) {
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
        pool: None,
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

#[cfg(test)]
mod tests;
