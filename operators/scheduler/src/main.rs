//! The controller of Scheduler: one object becomes a customer's workers, scheduled jobs and migrations.

use ahoi_scheduler::SchedulerController;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    ahoi_reconcile::run("ahoi-scheduler", |platform| async move { Ok(vec![SchedulerController::start(&platform)]) })
        .await
}
