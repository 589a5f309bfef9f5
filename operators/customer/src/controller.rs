//! The reconcile of a Customer.

use std::time::{Duration, Instant};

use ahoi_api::{
    ChildRef, Customer, CustomerStatus, EventReason, FeatureState, Plan, Reason, ReconcilePolicy, finalizers,
};
use ahoi_reconcile::{
    Cache, Controller, Error, EventType, Platform, Progress, Reconciler, Runnable, StatusThrottle, Transition, Trigger,
};
use kube::ResourceExt;

use crate::admission_limiter::{ADMISSION_TIMEOUT, AdmissionLimiter};
use crate::caches::Caches;
use crate::children::Children;
use crate::events::events;
use crate::features::chain::Chain;
use crate::features::converge::is_refused;
use crate::features::registry::{Reports, converge_all};
use crate::features::report::Report;
use crate::offboard::offboard;
use crate::offboarding::Offboarding;
use crate::plans::{PlanChanges, customers_on, look_up};
use crate::resolve::resolve;
use crate::status::{PROGRESS_DELAY, paused, retaining, status, written_at_once};
use crate::wanted::Wanted;

/// Interval at which a customer with a Stalled feature is reconciled. What blocks the feature may be an object that is not watched.
const STALLED_INTERVAL: Duration = Duration::from_secs(30);

/// The same if the API server refused a child, which costs a request each time.
const REFUSED_INTERVAL: Duration = Duration::from_secs(300);

/// Reconciles Customers.
pub struct CustomerController {
    platform: Platform,
    customers: Cache<Customer>,
    plans: Cache<Plan>,
    children: Children,
    limiter: AdmissionLimiter,
    trigger: Trigger<Customer>,
    throttle: StatusThrottle,
}

impl Reconciler for CustomerController {
    type Kind = Customer;
    const NAME: &'static str = "customer";
    const FINALIZER: Option<&'static str> = Some(finalizers::CUSTOMER);

    async fn reconcile(&self, customer: &Customer) -> Result<Progress<CustomerStatus>, Error> {
        if customer.spec.reconcile_policy == ReconcilePolicy::Paused {
            return Ok(Progress::new(paused(customer)));
        }
        // Dereference, validate, desired.
        let mut chain = self.children.of(customer);
        let plan = look_up(&self.plans, customer);
        let wanted = resolve(customer, plan.choice(), &chain, self.platform.namespace());
        if chain.namespace.is_none() && !self.limiter.admits(customer, Instant::now()) {
            return Ok(Progress::new(customer.status.clone().unwrap_or_default()).requeue_in(ADMISSION_TIMEOUT));
        }

        // Apply.
        let recorded = self.record_retained(customer, &wanted, &chain).await?;
        let customer = recorded.as_ref().unwrap_or(customer);
        let reports = converge_all(&self.children, customer, &wanted, &mut chain).await;
        self.record_repairs(customer, &reports);
        if let Some(error) = reports.failed {
            return Err(error);
        }

        // Status.
        self.admit_next(customer, &reports);
        let status = status(customer, &wanted, &chain, &reports.namespace, &reports.features);
        let progress = self.throttle.limit(customer, status, written_at_once, Instant::now());
        Ok(match next_reconcile(&reports).filter(|_| progress.requeue.is_none()) {
            Some(delay) => progress.requeue_in(delay),
            None => progress,
        })
    }

    fn transitions(&self, customer: &Customer, old: Option<&CustomerStatus>, new: &CustomerStatus) -> Vec<Transition> {
        events(customer, old, new)
    }

    async fn cleanup(&self, customer: &Customer) -> Result<(), Error> {
        if customer.spec.reconcile_policy == ReconcilePolicy::Paused {
            return Err(Error::waiting(
                Reason::Paused,
                "spec.reconcilePolicy is Paused: set it to Normal to remove the customer",
            ));
        }
        // A missing Plan blocks no deletion.
        let plan = look_up(&self.plans, customer);
        offboard(&Offboarding {
            platform: &self.platform,
            customers: &self.customers,
            children: &self.children,
            plan: plan.choice().found(),
            customer,
        })
        .await
    }
}

impl CustomerController {
    /// Starts the caches of children, and returns the controller.
    #[must_use]
    pub fn start(platform: &Platform, caches: &Caches) -> Runnable {
        let Caches { customers, plans } = caches;
        let children = Children::new(platform);
        let controller = Controller::new(platform, customers);
        let (trigger, on_plan, changes) = (controller.trigger(), customers.clone(), PlanChanges::new(plans.clone()));
        children
            .watched_by(controller)
            .watches(plans, move |plan: &Plan| {
                if changes.is_changed(plan) { customers_on(&on_plan, &plan.name_any()) } else { Vec::new() }
            })
            .run(Self {
                platform: platform.clone(),
                customers: customers.clone(),
                plans: plans.clone(),
                children,
                limiter: AdmissionLimiter::default(),
                trigger,
                throttle: StatusThrottle::new(PROGRESS_DELAY),
            })
    }

    /// Records that the data stays, before its database is deleted. Returns the customer with that status.
    async fn record_retained(
        &self,
        customer: &Customer,
        wanted: &Wanted,
        chain: &Chain,
    ) -> Result<Option<Customer>, Error> {
        let is_recorded = customer.status.as_ref().is_some_and(|status| status.database_retained);
        if is_recorded || wanted.database.is_some() || chain.database.is_none() {
            return Ok(None);
        }
        let status = retaining(customer);
        // The API server may answer with a newer spec than the one that is being reconciled.
        self.platform.write_status(&self.customers, customer, &status).await?;
        Ok(Some(Customer { status: Some(status), ..customer.clone() }))
    }

    /// Records an event for each child that another process deleted.
    fn record_repairs(&self, customer: &Customer, reports: &Reports) {
        let recreated = reports.all().filter(|report| report.recreated);
        for ChildRef { kind, namespace, name } in recreated.filter_map(|report| report.reference.as_ref()) {
            let namespace = namespace.as_ref().map(|namespace| format!("{namespace}/")).unwrap_or_default();
            let note = format!("{kind} {namespace}{name} was deleted; created it again");
            self.platform.event(customer, EventType::Warning, EventReason::Repaired, note);
        }
    }

    /// Admits the next new customer once this one is created, or waits for something else.
    fn admit_next(&self, customer: &Customer, reports: &Reports) {
        let is_created = |report: &Report| report.reference.is_some() || report.state != FeatureState::Progressing;
        if reports.features.iter().all(is_created)
            && let Some(next) = self.limiter.done(customer)
        {
            self.trigger.request(&next);
        }
    }
}

/// When to reconcile again although no watched object changes.
fn next_reconcile(reports: &Reports) -> Option<Duration> {
    let stalled = || reports.all().filter(|report| report.state == FeatureState::Stalled);
    stalled().next()?;
    let is_refused = stalled().any(|report| is_refused(&report.reason));
    Some(if is_refused { REFUSED_INTERVAL } else { STALLED_INTERVAL })
}

#[cfg(test)]
mod tests;
