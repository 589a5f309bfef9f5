//! The feature `scheduler`.

use ahoi_api::{Binding, Customer, Database, LocalRef, MigrationPool, Scheduler, SchedulerSpec};
use ahoi_reconcile::is_ready;
use kube::ResourceExt;

use super::chain::Chain;
use super::connection_pool::last_migration;
use super::feature::{Desired, Feature, awaits_namespace, wait_for_namespace};
use crate::children::child_meta;
use crate::wanted::Wanted;

pub struct SchedulerFeature;

impl Feature for SchedulerFeature {
    type Child = Scheduler;
    const NAME: &'static str = "scheduler";
    const CONDITION: &'static str = "SchedulerReady";
    const FIELDS: &'static [&'static str] =
        &["workers", "image", "command", "env", "resources", "readiness", "jobs", "migration"];
    // A job that fails is the customer's own affair, and makes neither the Scheduler nor the Customer unready.
    const MIRRORED: &'static [&'static str] = &["JobsHealthy"];

    fn desired(wanted: &Wanted, chain: &Chain) -> Desired<Scheduler> {
        let Some(spec) = &wanted.scheduler else { return Desired::Off };
        let image = image(wanted, spec, chain);
        if image.is_empty() {
            return Desired::Stall { reason: "NoImage", message: no_image(wanted) };
        }
        if awaits_namespace(chain.scheduler.as_ref(), chain) {
            return wait_for_namespace(wanted);
        }
        let binding = match binding(wanted, chain) {
            Ok(binding) => binding,
            Err(wait) => return wait,
        };
        let pool = binding.as_ref().filter(|_| spec.migration.is_some()).and_then(|binding| pool(binding, chain));
        let spec = SchedulerSpec { image: image.to_owned(), binding, pool, ..spec.clone() };
        Desired::Child(Box::new(scheduler(&wanted.name, spec)))
    }

    fn essential(customer: &Customer, child: &Scheduler) -> Scheduler {
        let run_policy = customer.spec.run_policy;
        scheduler(&customer.name_any(), SchedulerSpec { run_policy, ..child.spec.clone() })
    }
}

fn scheduler(customer: &str, spec: SchedulerSpec) -> Scheduler {
    let mut child = Scheduler::new(customer, spec);
    child.metadata = child_meta::<Scheduler>(customer, None);
    child
}

fn no_image(wanted: &Wanted) -> String {
    let plan = wanted.plan.as_ref().map(|plan| format!(" or of the Plan {plan}")).unwrap_or_default();
    format!("the workers have no image: set spec.features.scheduler.image of the Customer {}{plan}", wanted.name)
}

/// The workers' image. Workers that are to stop keep the one they have where none is named any more.
fn image<'a>(wanted: &Wanted, spec: &'a SchedulerSpec, chain: &'a Chain) -> &'a str {
    match &chain.scheduler {
        Some(running) if wanted.suspended && spec.image.is_empty() => &running.spec.image,
        _ => &spec.image,
    }
}

/// The Secret that workers mount: the pool's, else the database's, else none. Workers that run keep what they have
/// while the next one is not ready: a pool that is being changed is no reason to touch them.
fn binding(wanted: &Wanted, chain: &Chain) -> Result<Option<Binding>, Desired<Scheduler>> {
    let running = chain.scheduler.as_ref().map(|s| s.spec.binding.clone());
    let (source, binding, ready) = if wanted.connection_pool.is_some() {
        let pool = chain.connection_pool.as_deref();
        let binding = pool.and_then(|p| p.status.as_ref()?.binding.clone());
        // Suspended: the route is disabled on purpose and no worker runs.
        ("connection pool", binding, pool.is_some_and(is_ready))
    } else if wanted.database.is_some() {
        let database = chain.database.as_deref();
        ("database", database.and_then(|d| d.status.as_ref()?.binding.clone()), database.is_some_and(is_ready))
    } else {
        return Ok(None);
    };
    match (binding, running) {
        (Some(binding), _) if ready => Ok(Some(binding)),
        (_, Some(running)) => Ok(running),
        _ => Err(Desired::Wait {
            reason: if source == "database" { "WaitingForDatabase" } else { "WaitingForConnectionPool" },
            message: format!("waiting for the {source} of {}: its condition says why", wanted.name),
        }),
    }
}

/// What the migration needs where this binding is not the database's own.
fn pool(binding: &Binding, chain: &Chain) -> Option<MigrationPool> {
    let known = chain.scheduler.as_ref().and_then(|scheduler| scheduler.spec.pool.clone());
    let direct = chain.database.as_deref().and_then(direct_binding);
    let Some(direct) = direct else { return known };
    if direct.name == binding.name {
        return None;
    }
    let reconnected = chain.connection_pool.as_deref().filter(|pool| is_ready(*pool));
    let reconnected = reconnected.and_then(|pool| pool.spec.migration.clone());
    let known = known.and_then(|pool| pool.reconnected_after);
    // A pool that is on its way has reconnected after the last one all the same.
    Some(MigrationPool {
        direct_binding_ref: LocalRef { name: direct.name.clone() },
        reconnected_after: reconnected.filter(|now| Some(now) == last_migration(chain)).or(known),
    })
}

fn direct_binding(database: &Database) -> Option<&Binding> {
    database.status.as_ref()?.binding.as_ref()
}
