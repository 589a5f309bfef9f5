//! PgBouncer: the pods of a fleet, its address, and its observed state.

mod certificates;
mod controller;
mod desired;
mod faults;
mod status;
#[cfg(test)]
mod tests;

pub use controller::{FleetController, Options};
