//! The objects that a Customer owns.

use std::sync::Arc;

use ahoi_api::{CUSTOMER_LABEL, ConnectionPool, Customer, CustomerNamespace, Database, Scheduler, namespace_of};
use ahoi_reconcile::{Conditioned, ObjectRef, Owned, Platform, watcher};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{Api, ResourceExt};

use crate::features::chain::Chain;

/// Everything a Customer can have.
pub struct Children {
    pub namespaces: Owned<CustomerNamespace>,
    pub databases: Owned<Database>,
    pub connection_pools: Owned<ConnectionPool>,
    pub schedulers: Owned<Scheduler>,
}

impl Children {
    /// What the customer has now.
    pub fn of(&self, customer: &Customer) -> Chain {
        Chain {
            namespace: only_child(&self.namespaces, customer),
            database: only_child(&self.databases, customer),
            connection_pool: only_child(&self.connection_pools, customer),
            scheduler: only_child(&self.schedulers, customer),
        }
    }
}

pub fn owned<C: Conditioned>(platform: &Platform) -> Owned<C> {
    Owned::new(platform, &platform.cache_packed(Api::all(platform.client.clone()), watcher::Config::default()))
}

/// The customer's child of kind `C`; a customer has at most one of each. One that has lost its owner reference is found by its
/// name and label: whatever the customer has must be turned off and removed with it, restored or orphaned.
pub fn only_child<C: Conditioned>(children: &Owned<C>, customer: &Customer) -> Option<Arc<C>> {
    let owned = children.children(customer).into_iter().next();
    owned.or_else(|| children.orphan(customer, &child_meta::<C>(&customer.name_any(), None)))
}

/// The customer of a child that nothing but its label links to it.
pub fn unlinked<C: Conditioned>(child: &C) -> Option<ObjectRef<Customer>> {
    let customer = child.labels().get(CUSTOMER_LABEL).filter(|_| child.owner_references().is_empty())?;
    Some(ObjectRef::new(customer))
}

/// Metadata of a child of kind `C`, in the customer's namespace where the kind has one. The finalizer is put there at creation: that
/// saves the child's controller a write and leaves no moment at which the child could vanish unseen.
pub fn child_meta<C: Conditioned>(customer: &str, finalizer: Option<&str>) -> ObjectMeta {
    ObjectMeta {
        name: Some(customer.to_owned()),
        namespace: (!C::cluster_scoped()).then(|| namespace_of(customer)),
        labels: Some([(CUSTOMER_LABEL.to_owned(), customer.to_owned())].into()),
        finalizers: finalizer.map(|f| vec![f.to_owned()]),
        ..ObjectMeta::default()
    }
}
