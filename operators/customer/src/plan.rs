//! The status of a Plan: the number of its customers, by which an admission policy denies its deletion, and invalid values.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use ahoi_api::{Customer, Plan, PlanStatus, Reason};
use ahoi_reconcile::{
    Cache, Controller, Error, ObjectRef, Platform, Progress, Reconciler, Runnable, StatusThrottle, Verdict, conditions,
};
use kube::{Resource, ResourceExt};
use parking_lot::Mutex;

use crate::caches::Caches;
use crate::plans::plan_name;

/// Maximum age of the number of customers. The first and the last customer are reported at once.
const COUNT_MAX_AGE: Duration = Duration::from_secs(10);
/// Counting iterates over all customers, and takes at most one part in this many of the time.
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
        // Each of hundreds of new customers triggers a reconcile. A new spec does not wait.
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
    /// Returns the controller.
    #[must_use]
    pub fn start(platform: &Platform, caches: &Caches) -> Runnable {
        let Caches { customers, plans } = caches;
        let reconciler = Self {
            customers: customers.clone(),
            throttle: StatusThrottle::new(COUNT_MAX_AGE),
            next_count: Mutex::default(),
        };
        Controller::new(platform, plans)
            .watches(customers, |customer: &Customer| [ObjectRef::new(plan_name(customer))])
            .run(reconciler)
    }
}

/// Whether each size is valid. A default above the Plan's own limit is reported on the customers that use it.
fn verdict(plan: &Plan) -> Verdict {
    let features = &plan.spec.features;
    let sizes = [
        ("spec.limits.maxStorage", plan.spec.limits.max_storage.as_ref()),
        ("spec.features.database.storage", features.database.as_ref().and_then(|f| f.storage.as_ref())),
    ];
    for (field, size) in sizes {
        if let Some(Err(error)) = size.map(ahoi_api::Size::bytes) {
            return Verdict::stalled(Reason::InvalidSize, format!("{field}: {error}"));
        }
    }
    Verdict::ready("in effect for its customers")
}

#[cfg(test)]
mod tests {
    use ahoi_reconcile::testing::{cache, changed, gone};
    use serde_json::json;

    use super::*;
    use crate::plans::DEFAULT_PLAN;

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
            throttle: StatusThrottle::new(COUNT_MAX_AGE),
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
        assert!(held == Some(1) && due.is_some_and(|due| due <= COUNT_MAX_AGE), "{held:?} {due:?}");
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
