//! Customer → CustomerNamespace, Database, ConnectionPool, Scheduler.
//!
//! A reconcile reads in stages: the Plan is looked up, Customer and Plan are [resolved](resolve) into what the customer
//! shall have, each [feature](features) makes its child so, and their reports become the [status].
//! Many new customers at once are made [a few at a time](intake).
//! Deleting a Customer is its own story: [offboard], which may begin with having data back that was retained: [recall].

mod controller;
mod features;
mod intake;
mod offboard;
mod recall;
mod resolve;
mod status;

pub use controller::CustomerController;
