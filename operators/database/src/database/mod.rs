//! The controller of Databases: each is placed on a server, created there step by step, and published in a binding Secret.

mod adopt;
mod apply;
mod cleanup;
mod controller;
mod desired;
mod logins;
mod observe;
mod place;
mod references;
mod status;

pub use self::controller::DatabaseController;
