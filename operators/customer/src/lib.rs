//! Customer → CustomerNamespace, Database, ConnectionPool, Scheduler; and the status of Plans.
//!
//! A [reconcile](controller) of a Customer runs in stages:
//!
//! 1. Its [Plan](plans) and its [children] are read from caches.
//! 2. Customer and Plan are [resolved](resolve) to the [desired state](wanted). A field that exceeds a limit, or comes from a Plan
//!    that [does not exist](without_plan), is [held] back; all other fields are applied.
//! 3. Each [feature](features) creates, updates or deletes its child. New customers are created
//!    [a limited number at a time](admission_limiter).
//! 4. The reports of the features become the [status], and its changes become [events].
//!
//! The deletion of a Customer removes its children [one after the other](offboard).

#[macro_use]
mod features;

mod admission_limiter;
mod caches;
mod children;
mod controller;
mod events;
mod foreground;
mod held;
mod offboard;
mod offboarding;
mod plan;
mod plans;
mod resolve;
mod status;
mod wanted;
mod without_plan;

pub use caches::Caches;
pub use controller::CustomerController;
pub use plan::PlanController;

#[cfg(test)]
mod tests;
