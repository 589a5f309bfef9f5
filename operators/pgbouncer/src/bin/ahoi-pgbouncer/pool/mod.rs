//! ConnectionPool: its route, its Secret, and whether every process of its PgBouncer fleet has loaded the route.

mod cleanup;
mod controller;
mod credentials;
mod dereference;
mod desired;
mod former;
mod reports;
#[cfg(test)]
mod tests;
mod tls;
mod triggers;
mod validate;

pub use controller::PoolController;
