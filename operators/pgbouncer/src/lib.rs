//! What the controller of fleets and the agent beside each pgbouncer have in common, and the pure parts of the agent.
//!
//! The way of a route: the controller of ConnectionPools writes it into the pool's status; every agent of the fleet
//! reads it there ([`pool`]), decides what may be loaded ([`config::plan`]), writes pgbouncer's files
//! ([`config::render`]), reloads and proves what is loaded ([`console`]), and says so in the status of the PgBouncer ([`report`]);
//! the controller makes the pool Ready when every serving process has ([`pool::proof`]).

pub mod bounds;
pub mod certificates;
pub mod config;
pub mod console;
pub mod fleet;
pub mod hold;
pub mod logins;
pub mod pool;
pub mod report;
pub mod trust;

#[cfg(test)]
mod fixtures;

/// The port on which pgbouncer serves clients.
pub const PORT: u16 = 6432;
