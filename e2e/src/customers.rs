//! Customers of tests: create, wait, change, delete.

use ahoi_api::{Customer, CustomerSpec, CustomerStatus};
use ahoi_reconcile::{conditions, is_ready};
use anyhow::{Context as _, Result};
use kube::api::PostParams;
use kube::{Api, Resource as _};
use serde_json::json;

use crate::Cluster;

/// Seconds until a customer of a test is Ready, also on a slow machine.
pub const READY: u64 = 180;
/// Seconds until a customer of a test is deleted.
pub const DELETED: u64 = 120;

impl Cluster {
    /// Returns the API of Customers.
    pub fn customers(&self) -> Api<Customer> {
        self.all()
    }

    /// Creates the customer `name` with `features`. A customer that an earlier run left is deleted first.
    pub async fn create_customer(&self, name: &str, features: serde_json::Value) -> Result<Customer> {
        self.create_customer_with(name, json!({ "features": features })).await
    }

    /// Creates the customer `name` with `spec`. A customer that an earlier run left is deleted first.
    pub async fn create_customer_with(&self, name: &str, spec: serde_json::Value) -> Result<Customer> {
        self.delete_customer(name).await?;
        let spec: CustomerSpec = serde_json::from_value(spec).context("the spec in the test")?;
        Ok(self.customers().create(&PostParams::default(), &Customer::new(name, spec)).await?)
    }

    /// Waits until the current generation of the customer is Ready.
    pub async fn ready(&self, name: &str) -> Result<Customer> {
        let found =
            self.until(&self.customers(), name, "Ready", READY, |c: Option<&Customer>| c.is_some_and(is_ready)).await?;
        found.with_context(|| format!("Customer {name} was deleted"))
    }

    /// Merges `spec` into the spec of the customer and waits until that generation is Ready.
    pub async fn change(&self, name: &str, spec: serde_json::Value) -> Result<Customer> {
        self.patch_spec(&self.customers(), name, spec).await?;
        self.ready(name).await
    }

    /// Waits until condition `type_` of the current generation has this status and reason.
    pub async fn condition(&self, name: &str, type_: &str, status: &str, reason: &str) -> Result<Customer> {
        let what = format!("condition {type_}={status} with the reason {reason}");
        let holds = |c: Option<&Customer>| c.is_some_and(|c| has_condition(c, type_, status, reason));
        let found = self.until(&self.customers(), name, &what, READY, holds).await?;
        found.with_context(|| format!("Customer {name} was deleted"))
    }

    /// Deletes the customer if it exists, and waits until it is deleted.
    pub async fn delete_customer(&self, name: &str) -> Result<()> {
        self.delete(&self.customers(), name, DELETED).await
    }
}

/// Whether condition `type_` of the current generation has this status and reason.
pub fn has_condition(customer: &Customer, type_: &str, status: &str, reason: &str) -> bool {
    let conditions = customer.status.as_ref().map(|s: &CustomerStatus| s.conditions.as_slice()).unwrap_or_default();
    conditions::find_observed(conditions, type_, customer.meta().generation)
        .is_some_and(|c| c.status == status && c.reason == reason)
}

/// Returns the numbers of ready and enabled features of a customer, for example 3/3.
pub fn summary(customer: &Customer) -> String {
    let count =
        |count: fn(&CustomerStatus) -> Option<i32>| customer.status.as_ref().and_then(count).unwrap_or_default();
    format!("{}/{}", count(|status| status.ready_features), count(|status| status.enabled_features))
}
