//! The status of a Plan: how many customers use it, which is what an admission policy refuses its deletion by, and values
//! that cannot be used.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use ahoi_api::{Customer, Plan, PlanStatus};
use ahoi_reconcile::{
    Cache, Controller, Error, ObjectRef, Platform, Progress, Reconciler, Runnable, StatusThrottle, Verdict, conditions,
};
use kube::{Resource, ResourceExt};
use parking_lot::Mutex;

/// The Plan of a Customer that names none, where there is one of that name.
pub const DEFAULT_PLAN: &str = "default";
/// How old a number of customers may be. That a Plan is used at all, and that it is no longer, is reported at once.
const HOLD: Duration = Duration::from_secs(10);
/// Counting goes through all customers: it takes at most one part in so many of the time.
const SHARE: u32 = 20;

/// Reconciles Plans.
pub struct PlanController {
    customers: Cache<Customer>,
    throttle: StatusThrottle,
    /// When each Plan, by uid, may be counted again.
    next_count: Mutex<HashMap<String, Instant>>,
}

impl Reconciler for PlanController {
    type Kind = Plan;
    const NAME: &'static str = "plan";

    async fn reconcile(&self, plan: &Plan) -> Result<Progress<PlanStatus>, Error> {
        let (started, uid) = (Instant::now(), plan.uid().unwrap_or_default());
        let mut status = plan.status.clone().unwrap_or_default();
        // Customers that come by the hundred wake this each; a new spec is looked at whatever happens.
        let is_current = status.observed_generation == plan.metadata.generation;
        let due = self.next_count.lock().get(&uid).copied().filter(|due| is_current && *due > started);
        if let Some(due) = due {
            return Ok(Progress::new(status).requeue_in(due - started));
        }
        let name = plan.name_any();
        let on_plan = |customer: &Customer| customer.meta().deletion_timestamp.is_none() && plan_name(customer) == name;
        let count = self.customers.select(|customer| on_plan(customer).then_some(())).len();
        let mut next_count = self.next_count.lock();
        next_count.retain(|_, due| *due > started);
        next_count.insert(uid, Instant::now() + started.elapsed() * SHARE);
        drop(next_count);

        status.customers = i64::try_from(count).ok();
        conditions::set_verdict(&mut status.conditions, plan.metadata.generation, verdict(plan));
        let is_used = |status: &PlanStatus| {
            let stalled = conditions::find(&status.conditions, conditions::STALLED).map(|c| c.message.clone());
            (status.observed_generation, status.customers.map(|customers| customers > 0), stalled)
        };
        Ok(self.throttle.limit(plan, status, is_used, started))
    }
}

impl PlanController {
    /// A controller of the Plans, which are `plans`.
    #[must_use]
    pub fn start(platform: &Platform, plans: &Cache<Plan>, customers: &Cache<Customer>) -> Runnable {
        let reconciler =
            Self { customers: customers.clone(), throttle: StatusThrottle::new(HOLD), next_count: Mutex::default() };
        Controller::new(platform, plans)
            .watches(customers, |customer: &Customer| [ObjectRef::new(plan_name(customer))])
            .run(reconciler)
    }
}

/// The Plan that the customer is on, where there is one of that name.
pub fn plan_name(customer: &Customer) -> &str {
    customer.spec.plan.as_deref().unwrap_or(DEFAULT_PLAN)
}

/// Whether each value can be used. What exceeds a limit of the Plan is a default of customers, who may have another.
fn verdict(plan: &Plan) -> Verdict {
    let features = &plan.spec.features;
    let sizes = [
        ("spec.limits.maxStorage", plan.spec.limits.max_storage.as_ref()),
        ("spec.features.database.storage", features.database.as_ref().and_then(|f| f.storage.as_ref())),
    ];
    for (field, size) in sizes {
        if let Some(Err(error)) = size.map(ahoi_api::Size::bytes) {
            return Verdict::stalled("InvalidSize", format!("{field}: {error}"));
        }
    }
    Verdict::ready("in effect for its customers")
}

#[cfg(test)]
mod tests {
    use ahoi_reconcile::testing::{cache, changed, gone};
    use serde_json::json;

    use super::*;

    fn customer(name: &str, plan: Option<&str>) -> Customer {
        let mut customer = Customer::new(name, serde_json::from_value(json!({ "plan": plan })).unwrap());
        customer.metadata.uid = Some(name.to_owned());
        customer
    }

    async fn counted(controller: &PlanController, plan: &mut Plan) -> (Option<i64>, Option<Duration>) {
        let progress = controller.reconcile(plan).await.unwrap();
        plan.status = Some(progress.status);
        (plan.status.as_ref().unwrap().customers, progress.requeue)
    }

    #[tokio::test]
    async fn the_first_and_the_last_customer_are_reported_at_once() {
        let customers = cache([]);
        let controller = PlanController {
            customers: customers.clone(),
            throttle: StatusThrottle::new(HOLD),
            next_count: Mutex::default(),
        };
        let mut plan = Plan::new(DEFAULT_PLAN, ahoi_api::PlanSpec::default());
        let again = || controller.next_count.lock().clear();
        assert_eq!(counted(&controller, &mut plan).await.0, Some(0));
        for other in [customer("a", Some("gold")), customer("b", None)] {
            changed(&customers, other);
        }
        again();
        assert_eq!(counted(&controller, &mut plan).await, (Some(1), None));
        changed(&customers, customer("c", Some(DEFAULT_PLAN)));
        again();
        let (held, due) = counted(&controller, &mut plan).await;
        assert!(held == Some(1) && due.is_some_and(|due| due <= HOLD), "{held:?} {due:?}");
        gone(&customers, customer("b", None));
        gone(&customers, customer("c", Some(DEFAULT_PLAN)));
        again();
        assert_eq!(counted(&controller, &mut plan).await.0, Some(0));
    }

    #[test]
    fn a_size_that_cannot_be_used_is_named() {
        let plan = |spec| Plan::new("gold", serde_json::from_value(spec).unwrap());
        let Verdict::Stalled { reason, message } = verdict(&plan(json!({"limits": {"maxStorage": "999999999pb"}})))
        else {
            panic!("it is not Stalled")
        };
        assert_eq!(reason, "InvalidSize");
        assert!(message.contains("spec.limits.maxStorage") && message.contains("999999999pb"), "{message}");
        assert!(matches!(verdict(&plan(json!({"limits": {"maxStorage": "1pb"}}))), Verdict::Ready { .. }));
    }
}
