//! The reconcile of a Customer.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ahoi_api::{ChildRef, Customer, CustomerStatus, FeatureState, Plan, ReconcilePolicy, finalizers};
use ahoi_reconcile::{
    Cache, Controller, Error, EventType, ObjectRef, Platform, Progress, Reconciler, Runnable, StatusThrottle,
    Transition, Trigger, watcher,
};
use kube::{Api, ResourceExt};
use parking_lot::Mutex;

use crate::children::{Children, owned, unlinked};
use crate::features::chain::Chain;
use crate::features::connection_pool::ConnectionPoolFeature;
use crate::features::converge::{converge, is_refused};
use crate::features::database::DatabaseFeature;
use crate::features::namespace::NamespaceFeature;
use crate::features::report::{Report, not_built};
use crate::features::scheduler::SchedulerFeature;
use crate::intake::{Intake, PATIENCE};
use crate::offboard::offboard;
use crate::offboarding::Offboarding;
use crate::plan::{DEFAULT_PLAN, PlanController, plan_name};
use crate::resolve::{PlanChoice, resolve};
use crate::status::{HOLD, paused, retaining, status, substance};
use crate::story::story;
use crate::wanted::Wanted;

/// How often a customer with a stalled feature is looked at.
const LOOK_AGAIN: Duration = Duration::from_secs(30);

/// How often a child that the API server refuses is written again without a change of the Customer or its Plan.
const ASK_AGAIN: Duration = Duration::from_secs(300);

/// Reconciles Customers.
pub struct CustomerController {
    platform: Platform,
    customers: Cache<Customer>,
    plans: Cache<Plan>,
    children: Children,
    intake: Intake,
    trigger: Trigger<Customer>,
    throttle: StatusThrottle,
}

/// [`PlanChoice`] that owns its Plan.
enum PlanOf {
    Found(Arc<Plan>),
    BuiltIn,
    Missing { reason: &'static str, why: String },
}

impl PlanOf {
    fn choice(&self) -> PlanChoice<'_> {
        match self {
            PlanOf::Found(plan) => PlanChoice::Found(plan),
            PlanOf::BuiltIn => PlanChoice::BuiltIn,
            PlanOf::Missing { reason, why } => PlanChoice::Missing { reason, why },
        }
    }
}

impl Reconciler for CustomerController {
    type Kind = Customer;
    const NAME: &'static str = "customer";
    const FINALIZER: Option<&'static str> = Some(finalizers::CUSTOMER);

    async fn reconcile(&self, customer: &Customer) -> Result<Progress<CustomerStatus>, Error> {
        if customer.spec.reconcile_policy == ReconcilePolicy::Paused {
            return Ok(Progress::new(paused(customer)));
        }
        let mut chain = self.children.of(customer);
        let plan = self.plan_of(customer);
        let wanted = resolve(customer, plan.choice(), &chain, self.platform.namespace());

        if chain.namespace.is_none() && !self.intake.admits(customer, Instant::now()) {
            return Ok(Progress::new(customer.status.clone().unwrap_or_default()).requeue_in(PATIENCE));
        }
        let noted = self.note_retained(customer, &wanted, &chain).await?;
        let customer = noted.as_ref().unwrap_or(customer);
        let mut failed = None;
        let (child, namespace) =
            converge::<NamespaceFeature>(&self.children.namespaces, customer, &wanted, &chain, &mut failed).await;
        chain.namespace = child;
        let (child, database) =
            converge::<DatabaseFeature>(&self.children.databases, customer, &wanted, &chain, &mut failed).await;
        chain.database = child;
        let (child, pool) =
            converge::<ConnectionPoolFeature>(&self.children.connection_pools, customer, &wanted, &chain, &mut failed)
                .await;
        chain.connection_pool = child;
        let (child, scheduler) =
            converge::<SchedulerFeature>(&self.children.schedulers, customer, &wanted, &chain, &mut failed).await;
        chain.scheduler = child;
        self.report_repairs(customer, [&namespace, &database, &pool, &scheduler]);
        if let Some(error) = failed {
            return Err(error);
        }

        let features = [
            database,
            pool,
            scheduler,
            not_built("webhooks", "WebhooksReady", wanted.webhooks),
            not_built("previews", "PreviewsReady", wanted.previews),
        ];
        let is_made = |feature: &Report| feature.reference.is_some() || feature.state != FeatureState::Progressing;
        if features.iter().all(is_made)
            && let Some(next) = self.intake.done(customer)
        {
            self.trigger.request(&next);
        }
        let status = status(customer, &wanted, &chain, &namespace, &features);
        let progress = self.throttle.limit(customer, status, substance, Instant::now());
        // What is in a feature's way may belong to nobody who would wake us when it goes; looking costs no request.
        let stalled = || std::iter::once(&namespace).chain(&features).filter(|r| r.state == FeatureState::Stalled);
        // What the API server refused it refuses again: each look is a request.
        let again = if stalled().any(|report| is_refused(&report.reason)) { ASK_AGAIN } else { LOOK_AGAIN };
        let waits = stalled().next().is_some() && progress.requeue.is_none();
        Ok(if waits { progress.requeue_in(again) } else { progress })
    }

    fn transitions(&self, customer: &Customer, old: Option<&CustomerStatus>, new: &CustomerStatus) -> Vec<Transition> {
        story(customer, old, new)
    }

    async fn cleanup(&self, customer: &Customer) -> Result<(), Error> {
        if customer.spec.reconcile_policy == ReconcilePolicy::Paused {
            return Err(Error::waiting(
                "Paused",
                "spec.reconcilePolicy is Paused: set it to Normal to have the customer removed",
            ));
        }
        // A Plan that is gone holds no deletion back.
        let plan = self.plan_of(customer);
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
    /// Starts the caches; what comes back, the controllers of Customers and of Plans, is to be run.
    #[must_use]
    pub fn start(platform: &Platform) -> Vec<Runnable> {
        let customers: Cache<Customer> =
            platform.cache_packed(Api::all(platform.client.clone()), watcher::Config::default());
        let plans: Cache<Plan> = platform.cache(Api::all(platform.client.clone()), watcher::Config::default());
        let children = Children {
            namespaces: owned(platform),
            databases: owned(platform),
            connection_pools: owned(platform),
            schedulers: owned(platform),
        };
        let on_plan = customers.clone();
        let changes = PlanChanges { plans: plans.clone(), seen: Mutex::default() };
        let plan_controller = PlanController::start(platform, &plans, &customers);
        let controller = Controller::new(platform, &customers);
        let trigger = controller.trigger();
        let customer_controller =
            controller
                .owns(&children.namespaces)
                .owns(&children.databases)
                .owns(&children.connection_pools)
                .owns(&children.schedulers)
                .watches(children.namespaces.cache(), unlinked)
                .watches(children.databases.cache(), unlinked)
                .watches(children.connection_pools.cache(), unlinked)
                .watches(children.schedulers.cache(), unlinked)
                .watches(&plans, move |plan: &Plan| {
                    if changes.is_news(plan) { customers_on(&on_plan, &plan.name_any()) } else { Vec::new() }
                })
                .run(Self {
                    platform: platform.clone(),
                    customers,
                    plans,
                    children,
                    intake: Intake::default(),
                    trigger,
                    throttle: StatusThrottle::new(HOLD),
                });
        vec![customer_controller, plan_controller]
    }

    /// Publishes what was lost and has been created again.
    fn report_repairs(&self, customer: &Customer, reports: [&Report; 4]) {
        let lost = reports.into_iter().filter(|report| report.recreated).filter_map(|report| report.reference.as_ref());
        for ChildRef { kind, namespace, name } in lost {
            let namespace = namespace.as_ref().map(|namespace| format!("{namespace}/")).unwrap_or_default();
            let note = format!("{kind} {namespace}{name} was deleted; created it again");
            self.platform.event(customer, EventType::Warning, "Repaired", note);
        }
    }

    /// The Plan the Customer names; the one named `default` where it names none and there is one. One that was used and has
    /// vanished is missing, or every feature that came from it would go, too.
    fn plan_of(&self, customer: &Customer) -> PlanOf {
        let name = customer.spec.plan.as_deref();
        let used = customer.status.as_ref().and_then(|status| status.plan.as_deref());
        let found = match self.plans.find("", plan_name(customer)) {
            Ok(found) => found,
            Err(unreadable) => return PlanOf::Missing { reason: "Unreadable", why: unreadable.to_string() },
        };
        let missing = |why| PlanOf::Missing { reason: "PlanNotFound", why };
        match (found, name) {
            (Some(plan), _) => PlanOf::Found(plan),
            (None, Some(name)) => {
                missing(format!("spec.plan names the Plan {name}, which does not exist: create it or name another"))
            }
            (None, None) if used == Some(DEFAULT_PLAN) => missing(format!(
                "the Plan {DEFAULT_PLAN}, which the customer uses, does not exist any more: create it again (an empty \
                 one gives the built-in defaults) or name another in spec.plan"
            )),
            (None, None) => PlanOf::BuiltIn,
        }
    }

    /// Writes down that the data of a database that is to go stays, if nobody has yet. The answer is the customer with it.
    async fn note_retained(
        &self,
        customer: &Customer,
        wanted: &Wanted,
        chain: &Chain,
    ) -> Result<Option<Customer>, Error> {
        let is_noted = customer.status.as_ref().is_some_and(|status| status.database_retained);
        if is_noted || wanted.database.is_some() || chain.database.is_none() {
            return Ok(None);
        }
        let status = retaining(customer);
        // The spec in the answer may be newer than the one that this pass is about.
        self.platform.write_status(&self.customers, customer, &status).await?;
        Ok(Some(Customer { status: Some(status), ..customer.clone() }))
    }
}

/// The customers that a change of the Plan `plan` reaches.
fn customers_on(customers: &Cache<Customer>, plan: &str) -> Vec<ObjectRef<Customer>> {
    customers.select(|customer| (plan_name(customer) == plan).then(|| ObjectRef::from_obj(customer)))
}

/// Tells a change of a Plan's spec from one of its status, which counts the customers and concerns none of them.
struct PlanChanges {
    plans: Cache<Plan>,
    seen: Mutex<HashMap<String, Version>>,
}

/// Uid and generation of a Plan.
type Version = (Option<String>, Option<i64>);

impl PlanChanges {
    fn is_news(&self, plan: &Plan) -> bool {
        let mut seen = self.seen.lock();
        match self.plans.get(&plan.name_any()) {
            Some(now) => {
                let version = (now.uid(), now.metadata.generation);
                seen.insert(now.name_any(), version.clone()) != Some(version)
            }
            None => {
                seen.remove(&plan.name_any());
                true
            }
        }
    }
}

#[cfg(test)]
mod tests;
