//! What the suite does for its users, on a real cluster. The tests share the cluster and run side by side; each has
//! customers of its own.

mod admission;
mod database;
mod endpoints;
mod examples;
mod fan_out;
mod isolation;
mod namespace;
mod pool;
mod tls;
mod toggles;
