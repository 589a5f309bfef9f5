//! The controller of Scheduler, which runs the workers, scheduled jobs and migrations of a customer.

use ahoi_scheduler::SchedulerController;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    ahoi_reconcile::run("ahoi-scheduler", |platform| async move { Ok(vec![SchedulerController::start(&platform)]) })
        .await
}
