//! What the controllers and the agent beside each pgbouncer share, and the pure parts of the agent.
//!
//! How a route becomes Ready:
//!
//! 1. The controller of ConnectionPools writes the route into the pool's status.
//! 2. Every agent of the PgBouncer fleet reads it there ([`pool`]), decides whether it can be loaded ([`config::plan`]), writes
//!    pgbouncer's files ([`config::render`]), reloads pgbouncer and proves what it has loaded ([`console`]).
//! 3. The agent reports the proof in the status of the PgBouncer ([`report`]).
//! 4. The controller sets the pool Ready when every serving process has proved the route ([`pool::proof`]).

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

/// Port on which pgbouncer serves clients.
pub const PORT: u16 = 6432;
