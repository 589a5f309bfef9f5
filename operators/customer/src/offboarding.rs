//! A Customer that is being deleted: what each step of it needs.

use std::time::Duration;

use ahoi_api::{Customer, Plan};
use ahoi_reconcile::{Cache, Error, Platform, age};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::core::PartialObjectMeta;
use kube::{Api, Client, CustomResourceExt};

use crate::children::Children;

/// How long it may take. A server that is gone must not keep a Customer for ever.
const PATIENCE: Duration = Duration::from_secs(300);

/// A Customer that is being deleted, and what is needed for it.
pub struct Offboarding<'a> {
    pub platform: &'a Platform,
    pub customers: &'a Cache<Customer>,
    pub children: &'a Children,
    /// The customer's, where it is still there.
    pub plan: Option<&'a Plan>,
    pub customer: &'a Customer,
}

/// Writes down whether there is data without a Database.
pub async fn note(leaving: &Offboarding<'_>, is_retained: bool) -> Result<(), Error> {
    let &Offboarding { platform, customers, customer, .. } = leaving;
    let mut status = customer.status.clone().unwrap_or_default();
    status.database_retained = is_retained;
    platform.write_status(customers, customer, &status).await?;
    Ok(())
}

pub fn is_overdue(since: Option<&Time>) -> bool {
    since.is_some_and(|since| age(since, Timestamp::now()) >= PATIENCE)
}

/// Whether the definition of Customer is being deleted.
pub async fn definition_is_going(client: &Client) -> Result<bool, Error> {
    let api: Api<PartialObjectMeta<CustomResourceDefinition>> = Api::all(client.clone());
    let definition = api.get_opt(Customer::crd_name()).await?;
    Ok(definition.is_none_or(|d| d.metadata.deletion_timestamp.is_some()))
}
