//! A Customer that is being deleted: what the steps of its removal need.

use std::time::Duration;

use ahoi_api::{Customer, Plan};
use ahoi_reconcile::{Cache, Error, Platform, age};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::core::PartialObjectMeta;
use kube::{Api, Client, CustomResourceExt};

use crate::children::Children;

/// How long a step waits for an object that it has created. A server that no longer exists must not block the deletion for ever.
const RESTORE_TIMEOUT: Duration = Duration::from_secs(300);

/// A Customer that is being deleted.
pub struct Offboarding<'a> {
    pub platform: &'a Platform,
    pub customers: &'a Cache<Customer>,
    pub children: &'a Children,
    /// The Customer's Plan, if it exists.
    pub plan: Option<&'a Plan>,
    pub customer: &'a Customer,
}

/// Records in the status whether there is data without a Database.
pub async fn record_retained(offboarding: &Offboarding<'_>, is_retained: bool) -> Result<(), Error> {
    let &Offboarding { platform, customers, customer, .. } = offboarding;
    let mut status = customer.status.clone().unwrap_or_default();
    status.database_retained = is_retained;
    platform.write_status(customers, customer, &status).await?;
    Ok(())
}

/// Whether a step that began at `since` has waited long enough.
pub fn is_overdue(since: Option<&Time>) -> bool {
    since.is_some_and(|since| age(since, Timestamp::now()) >= RESTORE_TIMEOUT)
}

/// Whether the CustomResourceDefinition of Customer is being deleted, which deletes all Customers.
pub async fn definition_is_deleted(client: &Client) -> Result<bool, Error> {
    let api: Api<PartialObjectMeta<CustomResourceDefinition>> = Api::all(client.clone());
    let definition = api.get_opt(Customer::crd_name()).await?;
    Ok(definition.is_none_or(|d| d.metadata.deletion_timestamp.is_some()))
}
