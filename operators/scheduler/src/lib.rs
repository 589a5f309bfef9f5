//! Scheduler → Deployment, PodDisruptionBudget, CronJobs and a migration Job.
//!
//! A reconcile starts with the [migration]: until it has succeeded, everything keeps the version that it runs. Then the
//! [children](desired) are applied, and their [status](health) becomes that of the Scheduler. A [`StatusThrottle`](ahoi_reconcile::StatusThrottle) limits
//! how often it is written.

mod controller;
mod desired;
mod health;
mod migration;
mod pods;
mod status;

pub use controller::SchedulerController;

#[cfg(test)]
mod tests;
