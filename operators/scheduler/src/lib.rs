//! Scheduler → Deployment, PodDisruptionBudget, CronJobs and a migration Job.
//!
//! A pass looks at the [migration] first: until it has succeeded, everything that runs stays on the version it is on.
//! Then it makes the [children](desired) as they should be, and says from their own [status](health) how they are. How
//! often it says so is kept in bounds by a [`StatusThrottle`](ahoi_reconcile::StatusThrottle).

mod controller;
mod desired;
mod health;
mod migration;
mod pods;
mod status;

pub use controller::SchedulerController;

#[cfg(test)]
mod tests;
