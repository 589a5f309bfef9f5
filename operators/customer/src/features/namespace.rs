//! The namespace: what every customer has.

use ahoi_api::{CUSTOMER_LABEL, CustomerNamespace, finalizers};

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
        let mut child = CustomerNamespace::new(&wanted.name, spec.clone());
        child.metadata = child_meta(&wanted.name, Some(finalizers::CUSTOMER_NAMESPACE));
        child.metadata.namespace = None;
        debug_assert!(child.metadata.labels.as_ref().is_some_and(|l| l.contains_key(CUSTOMER_LABEL)));
        Desired::Child(Box::new(child))
    }
}
