//! The reconcile of a Scheduler.

use std::sync::Arc;
use std::time::Instant;

use ahoi_api::{CUSTOMER_LABEL, Scheduler, SchedulerStatus};
use ahoi_reconcile::{
    Class, Controller, Error, Object, Owned, Platform, Progress, Reconciler, Runnable, StatusThrottle,
    is_controlled_by, watcher,
};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::{Api, ResourceExt};

use crate::desired::{budget, cron_job, suspended_only, workers, workers_name};
use crate::migration::{Migration, is_kept, migration};
use crate::status::{HOLD, Observed, status, substance};

/// Reconciles Schedulers.
pub struct SchedulerController {
    migrations: Owned<Job>,
    workers: Owned<Deployment>,
    budgets: Owned<PodDisruptionBudget>,
    jobs: Owned<CronJob>,
    throttle: StatusThrottle,
}

impl Reconciler for SchedulerController {
    type Kind = Scheduler;
    const NAME: &'static str = "scheduler";

    async fn reconcile(&self, scheduler: &Scheduler) -> Result<Progress<SchedulerStatus>, Error> {
        let observed = self.apply(scheduler).await?;
        let status = status(scheduler, &observed);
        Ok(self.throttle.limit(scheduler, status, substance, Instant::now()))
    }
}

impl SchedulerController {
    /// Starts the caches, and returns the controller.
    pub fn start(platform: &Platform) -> Runnable {
        let schedulers = platform.watch_all_packed::<Scheduler>();
        let controller = Self {
            // The many Jobs of CronJobs are not cached: the status of their CronJob is enough.
            migrations: children(platform, &format!("{CUSTOMER_LABEL},app.kubernetes.io/name=migration"))
                .deleted_in_foreground(),
            workers: children(platform, CUSTOMER_LABEL).recreated_if_refused(),
            budgets: children(platform, CUSTOMER_LABEL).recreated_if_refused(),
            jobs: children(platform, CUSTOMER_LABEL).recreated_if_refused(),
            throttle: StatusThrottle::new(HOLD),
        };
        Controller::new(platform, &schedulers)
            .owns(&controller.migrations)
            .owns(&controller.workers)
            .owns(&controller.budgets)
            .owns(&controller.jobs)
            .run(controller)
    }

    /// Applies all children. What Kubernetes refuses of one, or a tenant does to one, blocks no other: workers and jobs of the
    /// previous version are suspended in any case.
    async fn apply(&self, scheduler: &Scheduler) -> Result<Observed, Error> {
        let mut refused = None;
        let migration = unless_refused(self.migrate(scheduler).await, &mut refused)?;
        let hold = migration.as_ref().is_none_or(Migration::holds);
        let workers = match unless_refused(self.apply_workers(scheduler, hold).await, &mut refused) {
            Ok(Some(workers)) => Ok(workers),
            Ok(None) => self.apply_workers(scheduler, true).await,
            Err(error) => Err(error),
        };
        let budget = match budget(scheduler) {
            Some(budget) => self.budgets.apply(scheduler, budget).await.map(drop),
            None => self.budgets.prune(scheduler, |_| false).await.map(drop),
        };
        let (jobs, refused_jobs) = self.schedule(scheduler, hold).await?;
        let workers = workers?;
        budget?;
        match (migration, refused) {
            (_, Some(error)) => Err(error),
            (migration, None) => {
                Ok(Observed { migration: migration.unwrap_or(Migration::None), workers, jobs, refused: refused_jobs })
            }
        }
    }

    /// Applies the workers. While a migration holds them they keep their version, and their number follows the spec.
    async fn apply_workers(&self, scheduler: &Scheduler, hold: bool) -> Result<Option<Arc<Deployment>>, Error> {
        let live = self.workers.child(scheduler, &workers_name(scheduler));
        match workers(scheduler, live.as_deref(), hold) {
            Some(workers) => self.workers.apply(scheduler, workers).await.map(Some),
            None => Ok(live),
        }
    }

    /// Starts the migration if it is due, and deletes those of other versions. An existing Job is never updated: its template is
    /// immutable.
    async fn migrate(&self, scheduler: &Scheduler) -> Result<Migration, Error> {
        let migration = migration(scheduler, &self.migrations.children(scheduler));
        self.migrations.prune(scheduler, |job| is_kept(scheduler, job)).await?;
        match migration {
            Migration::Due(job) => {
                let name = job.name_any();
                self.migrations.apply(scheduler, *job).await?;
                Ok(Migration::Running(name))
            }
            known => Ok(known),
        }
    }

    /// Creates, updates and deletes the scheduled jobs. One that Kubernetes refuses, for example for its schedule, blocks no other; the
    /// second result contains the refusals.
    async fn schedule(&self, scheduler: &Scheduler, hold: bool) -> Result<(Vec<Arc<CronJob>>, Vec<String>), Error> {
        let (mut jobs, mut refused, mut failed) = (Vec::new(), Vec::new(), None);
        for template in &scheduler.spec.jobs {
            let live = self.jobs.child(scheduler, &template.name);
            let Some(job) = cron_job(scheduler, template, live.as_deref(), hold) else {
                jobs.extend(live);
                continue;
            };
            match self.jobs.apply(scheduler, job).await {
                Ok(job) => jobs.push(job),
                Err(error) if matches!(error.class(), Class::Structural | Class::Terminal) => {
                    refused.push(format!(
                        "job {} is refused: {error}; correct it in the Customer or its Plan",
                        template.name
                    ));
                    if let Some(job) = live.as_deref().and_then(|live| suspended_only(scheduler, live)) {
                        self.jobs.apply(scheduler, job).await?;
                    }
                    jobs.extend(live);
                }
                Err(error) => failed = Some(error),
            }
        }
        let wanted = |job: &CronJob| scheduler.spec.jobs.iter().any(|template| template.name == job.name_any());
        self.jobs.prune(scheduler, wanted).await?;
        failed.map_or(Ok((jobs, refused)), Err)
    }
}

/// The result, or `None` if Kubernetes refused the request. `refused` keeps the first refusal.
fn unless_refused<T>(outcome: Result<T, Error>, refused: &mut Option<Error>) -> Result<Option<T>, Error> {
    match outcome {
        Err(error) if matches!(error.class(), Class::Structural | Class::Terminal) => {
            refused.get_or_insert(error);
            Ok(None)
        }
        outcome => outcome.map(Some),
    }
}

fn children<K: Object>(platform: &Platform, labels: &str) -> Owned<K> {
    let config = watcher::Config::default().labels(labels);
    let ours = is_controlled_by::<Scheduler>;
    Owned::new(platform, &platform.cache_ours(Api::all(platform.client.clone()), config, ours))
}
