//! One file a feature: when it is on, what child it wants, when that child is ready.
//!
//! To add one, write its file, add it to the chain in `controller.rs`, and its kind to `shared/api`.

pub mod chain;
pub mod connection_pool;
pub mod converge;
pub mod database;
pub mod feature;
pub mod namespace;
pub mod report;
pub mod scheduler;

#[cfg(test)]
mod tests;
