//! The limits of a Plan. A field that exceeds one keeps the value in force, and nothing else waits for it. Pure.

use ahoi_api::{Customer, Plan, Size};
use kube::ResourceExt;

use crate::features::chain::Chain;
use crate::features::connection_pool::ConnectionPoolFeature;
use crate::features::database::DatabaseFeature;
use crate::features::feature::Feature;
use crate::features::scheduler::SchedulerFeature;
use crate::held::{Held, stays};
use crate::storage;
use crate::wanted::Wanted;

/// Takes back what exceeds the limits of `plan`.
pub fn apply_limits(wanted: &mut Wanted, customer: &Customer, plan: &Plan, in_force: &Chain) {
    limit_storage(wanted, customer, plan, in_force);
    let (limits, own) = (&plan.spec.limits, &customer.spec.features);

    let workers = wanted.scheduler.as_ref().map(|s| s.workers);
    if let (Some(workers), Some(most)) = (workers, limits.max_workers.filter(|most| workers > Some(*most))) {
        let kept = in_force.scheduler.as_deref().map(|s| s.spec.workers);
        let is_own = own.scheduler.as_ref().is_some_and(|f| f.workers.is_some());
        let limit = Limit { plan, field: "scheduler.workers", limit: "maxWorkers", most: most.to_string(), is_own };
        wanted.held.push(limit.exceeded::<SchedulerFeature>(&workers.to_string(), kept.map(|kept| kept.to_string())));
        replace(&mut wanted.scheduler, kept, |spec, kept| spec.workers = kept);
    }

    let jobs = wanted.scheduler.as_ref().map(|s| i32::try_from(s.jobs.len()).unwrap_or(i32::MAX));
    if let (Some(jobs), Some(most)) = (jobs, limits.max_jobs.filter(|most| jobs > Some(*most))) {
        let kept = in_force.scheduler.as_deref().map(|s| s.spec.jobs.clone());
        let is_own = own.scheduler.as_ref().is_some_and(|f| f.jobs.is_some());
        let limit = Limit { plan, field: "scheduler.jobs", limit: "maxJobs", most: most.to_string(), is_own };
        let count = kept.as_ref().map(|kept| format!("the list of {}", kept.len()));
        wanted.held.push(limit.exceeded::<SchedulerFeature>(&format!("a list of {jobs}"), count));
        replace(&mut wanted.scheduler, kept, |spec, kept| spec.jobs = kept);
    }

    let size = wanted.connection_pool.as_ref().and_then(|p| p.pool_size);
    if let (Some(size), Some(most)) = (size, limits.max_pool_size.filter(|most| size > Some(*most))) {
        let kept = in_force.connection_pool.as_deref().map(|p| p.spec.pool_size);
        let is_own = own.connection_pool.as_ref().is_some_and(|f| f.pool_size.is_some());
        let limit =
            Limit { plan, field: "connectionPool.poolSize", limit: "maxPoolSize", most: most.to_string(), is_own };
        let text = kept.map(|kept| kept.map_or_else(|| "the fleet's default".to_owned(), |kept| kept.to_string()));
        wanted.held.push(limit.exceeded::<ConnectionPoolFeature>(&size.to_string(), text));
        replace(&mut wanted.connection_pool, kept, |spec, kept| spec.pool_size = kept);
    }
}

fn limit_storage(wanted: &mut Wanted, customer: &Customer, plan: &Plan, in_force: &Chain) {
    let Some(most) = &plan.spec.limits.max_storage else { return };
    let Some(size) = wanted.database.as_ref().map(|database| database.storage.clone()) else { return };
    let field = "database.storage";
    let kept = storage::in_force(customer, in_force);
    let held = match (size.bytes(), most.bytes()) {
        (Ok(bytes), Ok(limit)) if bytes <= limit => return,
        (_, Err(error)) => Held::of(
            DatabaseFeature::NAME,
            "InvalidSize",
            format!(
                "spec.limits.maxStorage of the Plan {}: {error}; {}",
                plan.name_any(),
                stays(DatabaseFeature::NAME, field, kept.as_ref().map(Size::to_string))
            ),
        ),
        (_, Ok(limit)) => {
            let is_own = customer.spec.features.database.as_ref().is_some_and(|f| f.storage.is_some());
            let limit_of = Limit { plan, field, limit: "maxStorage", most: most.to_string(), is_own };
            match &kept {
                // Nothing that can be written into the field would help.
                Some(kept) if kept.bytes().is_ok_and(|kept| kept > limit) => {
                    limit_of.exceeded_for_good::<DatabaseFeature>(&kept.to_string())
                }
                _ => limit_of.exceeded::<DatabaseFeature>(&size.to_string(), kept.as_ref().map(Size::to_string)),
            }
        }
    };
    wanted.held.push(held);
    replace(&mut wanted.database, kept, |spec, kept| spec.storage = kept);
}

/// The value in force takes the place of the one that is refused; where there is none, nothing is created.
fn replace<S, V>(spec: &mut Option<S>, kept: Option<V>, put: impl Fn(&mut S, V)) {
    match (spec.as_mut(), kept) {
        (Some(spec), Some(kept)) => put(spec, kept),
        _ => *spec = None,
    }
}

/// A limit of a Plan, and the field of a feature that it limits.
struct Limit<'a> {
    plan: &'a Plan,
    field: &'a str,
    limit: &'a str,
    most: String,
    /// Whether the Customer sets the field, which else is the Plan's.
    is_own: bool,
}

impl Limit<'_> {
    fn exceeded<F: Feature>(&self, has: &str, kept: Option<String>) -> Held {
        let Limit { field, limit, most, .. } = self;
        let plan = self.plan.name_any();
        let message = if self.is_own {
            format!(
                "spec.features.{field} is {has} and the Plan {plan} allows at most {most}: set it to at most {most}, or name \
                 another Plan in spec.plan"
            )
        } else {
            format!(
                "spec.features.{field} of the Plan {plan} is {has} and its spec.limits.{limit} is {most}: correct the Plan, or \
                 set spec.features.{field} of the Customer to at most {most}"
            )
        };
        Held::of(F::NAME, "ExceedsPlan", format!("{message}; {}", stays(F::NAME, field, kept)))
    }

    /// What is in force is more than the Plan allows, and cannot become less.
    fn exceeded_for_good<F: Feature>(&self, kept: &str) -> Held {
        let Limit { field, limit, most, .. } = self;
        let plan = self.plan.name_any();
        let message = format!(
            "the {} has {kept}, which cannot shrink, and the Plan {plan} allows at most {most}: name another Plan in \
             spec.plan, or set spec.limits.{limit} of the Plan {plan} to at least {kept}",
            F::NAME
        );
        Held::of(F::NAME, "ExceedsPlan", format!("{message}; {}", stays(F::NAME, field, Some(kept.to_owned()))))
    }
}
