//! The namespace: what every customer has.

use ahoi_api::{Customer, CustomerNamespace, CustomerNamespaceSpec, finalizers};
use kube::ResourceExt;

use super::{Chain, Desired, Feature, child_meta, wait_for_namespace};
use crate::resolve::Wanted;

pub struct NamespaceFeature;

impl Feature for NamespaceFeature {
    type Child = CustomerNamespace;
    const NAME: &'static str = "namespace";
    const CONDITION: &'static str = "NamespaceReady";
    // Its guard rails are the Plan's, and its groups are spec.groups of the Customer, too.
    const FIELDS: &'static [&'static str] = &[];

    fn desired(wanted: &Wanted, _: &Chain) -> Desired<CustomerNamespace> {
        // It is never removed while the Customer is there.
        let Some(spec) = &wanted.namespace else { return wait_for_namespace(wanted) };
        Desired::Child(Box::new(namespace_child(&wanted.name, spec.clone())))
    }

    fn essential(customer: &Customer, child: &CustomerNamespace) -> CustomerNamespace {
        let groups = customer.spec.groups.clone();
        namespace_child(&customer.name_any(), CustomerNamespaceSpec { groups, ..child.spec.clone() })
    }
}

/// The child of a customer.
pub fn namespace_child(customer: &str, spec: CustomerNamespaceSpec) -> CustomerNamespace {
    let mut child = CustomerNamespace::new(customer, spec);
    child.metadata = child_meta::<CustomerNamespace>(customer, Some(finalizers::CUSTOMER_NAMESPACE));
    child
}
