//! CustomerNamespace → core Namespace, ResourceQuota, LimitRange, NetworkPolicies, RoleBindings.
//!
//! A pass first asks [whose](ownership) the namespace is, then makes it and its [guard rails](desired) as they should
//! be. The core Namespace outlives its CustomerNamespace unless that one's own policy says otherwise, and so do the guard
//! rails in it: nothing here carries an ownerReference, so garbage collection finds nothing to take.

mod controller;
mod desired;
mod guard_rail;
mod network;
mod ownership;

pub use controller::{NamespaceController, NamespaceOptions};

#[cfg(test)]
mod tests;
