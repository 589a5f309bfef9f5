//! CustomerNamespace → core Namespace, ResourceQuota, LimitRange, NetworkPolicies, RoleBindings.
//!
//! A reconcile checks the [ownership] of the namespace, then applies the namespace and its [guard rails](desired). The Namespace
//! outlives its CustomerNamespace unless the deletion policy is Delete, and so do its guard rails: none has an owner reference, so
//! garbage collection deletes none of them.

mod controller;
mod desired;
mod guard_rail;
mod network;
mod ownership;

pub use controller::{NamespaceController, NamespaceOptions};

#[cfg(test)]
mod tests;
