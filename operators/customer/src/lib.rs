//! Customer → CustomerNamespace, Database, ConnectionPool, Scheduler.
//!
//! A reconcile reads in stages: the Plan is looked up, Customer and Plan are [resolved](resolve) into what the customer
//! shall have, each [feature](features) makes its child so, and their reports become the [status], whose changes are the customer's [story]. A field that exceeds the
//! [limits] of the Plan or shrinks the [storage] is [held] back alone; so is what comes from a Plan that
//! [does not exist](without_plan).
//! The [plan] counts its customers.
//! Many new customers at once are made [a few at a time](intake).
//! Deleting a Customer is its own story: [offboard], which may begin with having data back that was retained: [recall].

mod children;
mod controller;
mod features;
mod foreground;
mod held;
mod intake;
mod limits;
mod offboard;
mod offboarding;
mod plan;
mod recall;
mod resolve;
mod status;
mod storage;
mod story;
mod wanted;
mod without_plan;

pub use controller::CustomerController;

#[cfg(test)]
mod tests;
