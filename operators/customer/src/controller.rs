//! The reconcile of a Customer.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ahoi_api::{
    ConnectionPool, Customer, CustomerNamespace, CustomerStatus, Database, FeatureState, Plan, ReconcilePolicy,
    Scheduler, finalizers,
};
use ahoi_reconcile::{
    Cache, Conditioned, Controller, Error, ObjectRef, Owned, Pace, Platform, Progress, Reconciler, Runnable, Waker,
    watcher,
};
use kube::{Api, ResourceExt};

use crate::features::{
    Chain, ConnectionPoolFeature, DatabaseFeature, NamespaceFeature, Report, SchedulerFeature, converge, not_built,
};
use crate::intake::{Intake, PATIENCE};
use crate::offboard::{Offboarding, offboard};
use crate::resolve::{DEFAULT_PLAN, Wanted, resolve};
use crate::status::{HOLD, paused, retaining, status, substance};

/// How often a customer with a stalled feature is looked at.
const LOOK_AGAIN: Duration = Duration::from_secs(30);

/// Reconciles Customers.
pub struct CustomerController {
    platform: Platform,
    customers: Cache<Customer>,
    plans: Cache<Plan>,
    children: Children,
    intake: Intake,
    waker: Waker<Customer>,
    pace: Pace,
}

/// Everything a Customer can have.
pub struct Children {
    pub namespaces: Owned<CustomerNamespace>,
    pub databases: Owned<Database>,
    pub connection_pools: Owned<ConnectionPool>,
    pub schedulers: Owned<Scheduler>,
}

impl Reconciler for CustomerController {
    type Kind = Customer;
    const NAME: &'static str = "customer";
    const FINALIZER: Option<&'static str> = Some(finalizers::CUSTOMER);

    async fn reconcile(&self, customer: &Customer) -> Result<Progress<CustomerStatus>, Error> {
        if customer.spec.reconcile_policy == ReconcilePolicy::Paused {
            return Ok(Progress::new(paused(customer)));
        }
        let plan = self.plan_of(customer)?;
        let wanted = resolve(customer, plan.as_deref(), self.platform.namespace())?;

        let mut chain = self.children.of(customer);
        if chain.namespace.is_none() && !self.intake.admits(customer, Instant::now()) {
            return Ok(Progress::new(customer.status.clone().unwrap_or_default()).requeue_in(PATIENCE));
        }
        let noted = self.note_retained(customer, &wanted, &chain).await?;
        let customer = noted.as_ref().unwrap_or(customer);
        let (child, namespace) =
            converge::<NamespaceFeature>(&self.children.namespaces, customer, &wanted, &chain).await?;
        chain.namespace = child;
        let (child, database) =
            converge::<DatabaseFeature>(&self.children.databases, customer, &wanted, &chain).await?;
        chain.database = child;
        let (child, pool) =
            converge::<ConnectionPoolFeature>(&self.children.connection_pools, customer, &wanted, &chain).await?;
        chain.connection_pool = child;
        let (_, scheduler) = converge::<SchedulerFeature>(&self.children.schedulers, customer, &wanted, &chain).await?;

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
            self.waker.wake(&next);
        }
        let status = status(customer, &wanted, &namespace, &features);
        let progress = self.pace.keep(customer, status, substance, Instant::now());
        // What is in a feature's way may belong to nobody who would wake us when it goes; looking costs no request.
        let stalled = features.iter().any(|feature| feature.state == FeatureState::Stalled);
        Ok(if stalled && progress.requeue.is_none() { progress.requeue_in(LOOK_AGAIN) } else { progress })
    }

    async fn cleanup(&self, customer: &Customer) -> Result<(), Error> {
        if customer.spec.reconcile_policy == ReconcilePolicy::Paused {
            return Err(Error::waiting(
                "Paused",
                "spec.reconcilePolicy is Paused: set it to Normal to have the customer removed",
            ));
        }
        // A Plan that is gone holds no deletion back.
        let plan = self.plan_of(customer).unwrap_or_default();
        offboard(&Offboarding {
            platform: &self.platform,
            customers: &self.customers,
            children: &self.children,
            plan: plan.as_deref(),
            customer,
        })
        .await
    }
}

impl CustomerController {
    /// Starts the caches; what comes back is to be run.
    #[must_use]
    pub fn start(platform: &Platform) -> Runnable {
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
        let controller = Controller::new(platform, &customers);
        let waker = controller.waker();
        controller
            .owns(&children.namespaces)
            .owns(&children.databases)
            .owns(&children.connection_pools)
            .owns(&children.schedulers)
            .watches(&plans, move |plan: &Plan| customers_on(&on_plan, &plan.name_any()))
            .run(Self {
                platform: platform.clone(),
                customers,
                plans,
                children,
                intake: Intake::default(),
                waker,
                pace: Pace::new(HOLD),
            })
    }

    /// The Plan the Customer names; the one named `default` where it names none and there is one. That it was used and has
    /// vanished is an error, or every feature that came from it would go, too.
    fn plan_of(&self, customer: &Customer) -> Result<Option<Arc<Plan>>, Error> {
        let name = customer.spec.plan.as_deref();
        let used = customer.status.as_ref().and_then(|status| status.plan.as_deref());
        let why = match (self.plans.find("", name.unwrap_or(DEFAULT_PLAN))?, name) {
            (Some(plan), _) => return Ok(Some(plan)),
            (None, Some(name)) => {
                format!("spec.plan names the Plan {name}, which does not exist: create it or name another")
            }
            (None, None) if used == Some(DEFAULT_PLAN) => format!(
                "the Plan {DEFAULT_PLAN}, which the customer uses, does not exist any more: create it again (an empty \
                 one gives the built-in defaults) or name another in spec.plan"
            ),
            (None, None) => return Ok(None),
        };
        Err(Error::structural("PlanNotFound", why))
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

impl Children {
    /// What the customer has now.
    fn of(&self, customer: &Customer) -> Chain {
        Chain {
            namespace: only_child(&self.namespaces, customer),
            database: only_child(&self.databases, customer),
            connection_pool: only_child(&self.connection_pools, customer),
            scheduler: only_child(&self.schedulers, customer),
        }
    }
}

fn owned<C: Conditioned>(platform: &Platform) -> Owned<C> {
    Owned::new(platform, &platform.cache_packed(Api::all(platform.client.clone()), watcher::Config::default()))
}

/// The customer's child of kind `C`; a customer has at most one of each.
pub fn only_child<C: Conditioned>(children: &Owned<C>, customer: &Customer) -> Option<Arc<C>> {
    children.children(customer).into_iter().next()
}

/// The customers that a change of the Plan `plan` reaches.
fn customers_on(customers: &Cache<Customer>, plan: &str) -> Vec<ObjectRef<Customer>> {
    customers.select(|customer| {
        let on_plan = customer.spec.plan.as_deref().unwrap_or(DEFAULT_PLAN) == plan;
        on_plan.then(|| ObjectRef::from_obj(customer))
    })
}

#[cfg(test)]
#[path = "controller_tests.rs"]
mod tests;
