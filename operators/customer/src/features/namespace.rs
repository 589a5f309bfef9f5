//! The namespace: what every customer has.

use ahoi_api::{CUSTOMER_LABEL, CustomerNamespace, finalizers};
use ahoi_reconcile::Error;

use super::{Chain, Desired, Feature, child_meta};
use crate::resolve::Wanted;

pub struct NamespaceFeature;

impl Feature for NamespaceFeature {
    type Child = CustomerNamespace;
    const NAME: &'static str = "namespace";
    const CONDITION: &'static str = "NamespaceReady";

    fn desired(wanted: &Wanted, _: &Chain) -> Result<Desired<CustomerNamespace>, Error> {
        let mut child = CustomerNamespace::new(&wanted.name, wanted.namespace.clone());
        child.metadata = child_meta(&wanted.name, Some(finalizers::CUSTOMER_NAMESPACE));
        child.metadata.namespace = None;
        debug_assert!(child.metadata.labels.as_ref().is_some_and(|l| l.contains_key(CUSTOMER_LABEL)));
        Ok(Desired::Child(Box::new(child)))
    }
}
