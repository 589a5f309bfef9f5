//! The objects that Customers own.

use std::sync::Arc;

use ahoi_api::{CUSTOMER_LABEL, Customer, namespace_of};
use ahoi_reconcile::{Conditioned, Controller, ObjectRef, Owned, Platform};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt;

use crate::features::chain::Chain;

macro_rules! children {
    ($($feature:ident: $type:ident => $kind:ident,)+) => {
        /// The children of all customers, by feature.
        pub struct Children {
            $(pub $feature: Owned<ahoi_api::$kind>,)+
        }

        impl Children {
            /// Caches the children of all customers.
            pub fn new(platform: &Platform) -> Self {
                Self { $($feature: owned(platform),)+ }
            }

            /// No children, for tests.
            #[cfg(test)]
            pub fn empty(platform: &Platform) -> Self {
                Self { $($feature: Owned::new(platform, &ahoi_reconcile::testing::cache([])),)+ }
            }

            /// The children that the customer has now.
            pub fn of(&self, customer: &Customer) -> Chain {
                Chain { $($feature: only_child(&self.$feature, customer),)+ }
            }

            /// Has the controller reconcile a Customer when one of its children changes.
            pub fn watched_by(&self, controller: Controller<Customer>) -> Controller<Customer> {
                controller $(.owns(&self.$feature).watches(self.$feature.cache(), unlinked))+
            }
        }
    };
}
each_feature!(children);

fn owned<C: Conditioned>(platform: &Platform) -> Owned<C> {
    Owned::new(platform, &platform.watch_all_packed())
}

/// The customer's child of kind `C`, of which it has at most one. A child without its owner reference, after a restore or an
/// orphaning deletion, is found by name and label, so that it is adopted or removed like any other.
pub fn only_child<C: Conditioned>(children: &Owned<C>, customer: &Customer) -> Option<Arc<C>> {
    let owned = children.children(customer).into_iter().next();
    owned.or_else(|| children.orphan(customer, &child_meta::<C>(&customer.name_any(), None)))
}

/// The customer of a child that only its label links to it.
pub fn unlinked<C: Conditioned>(child: &C) -> Option<ObjectRef<Customer>> {
    let customer = child.labels().get(CUSTOMER_LABEL).filter(|_| child.owner_references().is_empty())?;
    Some(ObjectRef::new(customer))
}

/// Metadata of a child of kind `C`, in the customer's namespace if the kind is namespaced. Setting the finalizer at creation
/// saves the child's controller a write, and the child cannot disappear before that controller has seen it.
pub fn child_meta<C: Conditioned>(customer: &str, finalizer: Option<&str>) -> ObjectMeta {
    ObjectMeta {
        name: Some(customer.to_owned()),
        namespace: (!C::cluster_scoped()).then(|| namespace_of(customer)),
        labels: Some([(CUSTOMER_LABEL.to_owned(), customer.to_owned())].into()),
        finalizers: finalizer.map(|f| vec![f.to_owned()]),
        ..ObjectMeta::default()
    }
}
