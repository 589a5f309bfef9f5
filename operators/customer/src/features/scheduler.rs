//! The feature `scheduler`.

use ahoi_api::{Binding, Customer, Database, Features, LocalRef, MigrationPool, Reason, Scheduler, SchedulerSpec};
use ahoi_reconcile::is_ready;
use kube::ResourceExt;

use super::chain::Chain;
use super::connection_pool::last_migration;
use super::feature::{Desired, Feature, awaits_namespace, wait_for_namespace};
use super::inputs::Inputs;
use super::limits::{Limit, replace};
use crate::children::child_meta;
use crate::wanted::Wanted;

const DEFAULT_WORKERS: i32 = 1;

/// The workers and jobs of a customer.
pub struct SchedulerFeature;

impl Feature for SchedulerFeature {
    type Child = Scheduler;
    const NAME: &'static str = "scheduler";
    const CONDITION: &'static str = "SchedulerReady";
    const FIELDS: &'static [&'static str] =
        &["workers", "image", "command", "env", "resources", "readiness", "jobs", "migration"];
    // A failed job makes neither the Scheduler nor the Customer unready.
    const MIRRORED: &'static [&'static str] = &["JobsHealthy"];

    fn enabled(features: &Features) -> Option<bool> {
        features.scheduler.as_ref()?.enabled
    }

    fn resolve(inputs: &Inputs<'_>, _wanted: &mut Wanted) -> Option<SchedulerSpec> {
        if !inputs.enabled(Self::enabled).unwrap_or(false) {
            return None;
        }
        let scheduler = inputs.settings(|features| features.scheduler.as_ref());
        Some(SchedulerSpec {
            workers: scheduler.field(|f| f.workers).unwrap_or(DEFAULT_WORKERS),
            // An empty image is reported by `desired`, and blocks no other feature.
            image: scheduler.field(|f| f.image.clone()).unwrap_or_default(),
            command: scheduler.field(|f| f.command.clone()).unwrap_or_default(),
            env: scheduler.list(|f| f.env.clone(), |var| &var.name),
            resources: scheduler.field(|f| f.resources.clone()),
            readiness: scheduler.field(|f| f.readiness.clone()),
            // Known once the database or the pool is ready: see `desired`.
            binding: None,
            pool: None,
            jobs: scheduler.list(|f| f.jobs.clone(), |job| &job.name),
            migration: scheduler.field(|f| f.migration.clone()),
            run_policy: inputs.customer.spec.run_policy,
        })
    }

    fn adjust(inputs: &Inputs<'_>, wanted: &mut Wanted) {
        limit_workers(inputs, wanted);
        limit_jobs(inputs, wanted);
    }

    fn desired(wanted: &Wanted, chain: &Chain) -> Desired<Scheduler> {
        let Some(spec) = &wanted.scheduler else { return Desired::Off };
        let image = image(wanted, spec, chain);
        if image.is_empty() {
            return Desired::Stall { reason: Reason::NoImage, message: no_image(wanted) };
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

fn limit_workers(inputs: &Inputs<'_>, wanted: &mut Wanted) {
    let Some(plan) = inputs.plan else { return };
    let workers = wanted.scheduler.as_ref().map(|scheduler| scheduler.workers);
    let Some((workers, most)) = workers.zip(plan.spec.limits.max_workers).filter(|(workers, most)| workers > most)
    else {
        return;
    };
    let kept = inputs.in_force.scheduler.as_deref().map(|scheduler| scheduler.spec.workers);
    let limit = Limit {
        plan,
        feature: SchedulerFeature::NAME,
        field: "workers",
        limit: "maxWorkers",
        most: most.to_string(),
        is_own: inputs.settings(|features| features.scheduler.as_ref()).own.is_some_and(|f| f.workers.is_some()),
    };
    wanted.held.push(limit.exceeded(&workers.to_string(), kept.map(|kept| kept.to_string())));
    replace(&mut wanted.scheduler, kept, |spec, kept| spec.workers = kept);
}

fn limit_jobs(inputs: &Inputs<'_>, wanted: &mut Wanted) {
    let Some(plan) = inputs.plan else { return };
    let jobs = wanted.scheduler.as_ref().map(|scheduler| i32::try_from(scheduler.jobs.len()).unwrap_or(i32::MAX));
    let Some((jobs, most)) = jobs.zip(plan.spec.limits.max_jobs).filter(|(jobs, most)| jobs > most) else { return };
    let kept = inputs.in_force.scheduler.as_deref().map(|scheduler| scheduler.spec.jobs.clone());
    let limit = Limit {
        plan,
        feature: SchedulerFeature::NAME,
        field: "jobs",
        limit: "maxJobs",
        most: most.to_string(),
        is_own: inputs.settings(|features| features.scheduler.as_ref()).own.is_some_and(|f| f.jobs.is_some()),
    };
    let count = kept.as_ref().map(|kept| format!("the list of {}", kept.len()));
    wanted.held.push(limit.exceeded(&format!("a list of {jobs}"), count));
    replace(&mut wanted.scheduler, kept, |spec, kept| spec.jobs = kept);
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

/// The image of the workers. Workers that are to stop keep theirs if the spec no longer names one.
fn image<'a>(wanted: &Wanted, spec: &'a SchedulerSpec, chain: &'a Chain) -> &'a str {
    match &chain.scheduler {
        Some(running) if wanted.suspended && spec.image.is_empty() => &running.spec.image,
        _ => &spec.image,
    }
}

/// The Secret that workers mount: the pool's, else the database's, else none. Running workers keep theirs until the next one is
/// ready, so that a change of the pool does not restart them.
fn binding(wanted: &Wanted, chain: &Chain) -> Result<Option<Binding>, Desired<Scheduler>> {
    let running = chain.scheduler.as_ref().map(|s| s.spec.binding.clone());
    let (source, condition, binding, ready) = if wanted.connection_pool.is_some() {
        let pool = chain.connection_pool.as_deref();
        let binding = pool.and_then(|p| p.status.as_ref()?.binding.clone());
        ("ConnectionPool", "ConnectionPoolReady", binding, pool.is_some_and(is_ready))
    } else if wanted.database.is_some() {
        let database = chain.database.as_deref();
        let binding = database.and_then(|d| d.status.as_ref()?.binding.clone());
        ("Database", "DatabaseReady", binding, database.is_some_and(is_ready))
    } else {
        return Ok(None);
    };
    match (binding, running) {
        (Some(binding), _) if ready => Ok(Some(binding)),
        (_, Some(running)) => Ok(running),
        _ => Err(Desired::Wait {
            reason: if source == "Database" { Reason::WaitingForDatabase } else { Reason::WaitingForConnectionPool },
            message: format!("waiting for {source} {}: see the condition {condition}", wanted.name),
        }),
    }
}

/// What a migration needs if this binding is not the database's own.
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
    // A pool that is not Ready now has still reconnected after the earlier migration.
    Some(MigrationPool {
        direct_binding_ref: LocalRef { name: direct.name.clone() },
        reconnected_after: reconnected.filter(|now| Some(now) == last_migration(chain)).or(known),
    })
}

fn direct_binding(database: &Database) -> Option<&Binding> {
    database.status.as_ref()?.binding.as_ref()
}
