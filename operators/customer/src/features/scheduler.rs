//! The feature `scheduler`.

use ahoi_api::{Binding, Scheduler, SchedulerSpec};
use ahoi_reconcile::{Error, is_ready};

use super::{Chain, Desired, Feature, awaits_namespace, child_meta, wait_for_namespace};
use crate::resolve::Wanted;

pub struct SchedulerFeature;

impl Feature for SchedulerFeature {
    type Child = Scheduler;
    const NAME: &'static str = "scheduler";
    const CONDITION: &'static str = "SchedulerReady";

    fn desired(wanted: &Wanted, chain: &Chain) -> Result<Desired<Scheduler>, Error> {
        let Some(spec) = &wanted.scheduler else { return Ok(Desired::Off) };
        let image = image(wanted, spec, chain);
        if image.is_empty() {
            return Ok(Desired::Stall {
                reason: "NoImage",
                message: "no image for the workers: set spec.features.scheduler.image in the Plan or the Customer"
                    .into(),
            });
        }
        if awaits_namespace(chain.scheduler.as_ref(), chain) {
            return Ok(wait_for_namespace());
        }
        let binding = match binding(wanted, chain) {
            Ok(binding) => binding,
            Err(wait) => return Ok(wait),
        };
        let mut child = Scheduler::new(&wanted.name, spec.clone());
        child.spec.image = image.to_owned();
        child.spec.binding = binding;
        child.metadata = child_meta(&wanted.name, None);
        Ok(Desired::Child(Box::new(child)))
    }
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
            reason: if source == "database" { "WaitingForDatabase" } else { "WaitingForPool" },
            message: format!("waiting for the {source}"),
        }),
    }
}
