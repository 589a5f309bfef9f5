//! The namespace: what every customer has.

use std::collections::BTreeSet;

use ahoi_api::{Customer, CustomerNamespace, CustomerNamespaceSpec, finalizers};
use kube::ResourceExt;

use super::chain::Chain;
use super::feature::{Desired, Feature, wait_for_namespace};
use crate::children::child_meta;
use crate::wanted::Wanted;

pub struct NamespaceFeature;

impl Feature for NamespaceFeature {
    type Child = CustomerNamespace;
    const NAME: &'static str = "namespace";
    const CONDITION: &'static str = "NamespaceReady";
    // Its guard rails are the Plan's, and its groups are spec.groups of the Customer, too.
    const FIELDS: &'static [&'static str] = &[];

    fn desired(wanted: &Wanted, chain: &Chain) -> Desired<CustomerNamespace> {
        // It is never removed while the Customer is there.
        let Some(spec) = &wanted.namespace else { return wait_for_namespace(wanted) };
        let spec = CustomerNamespaceSpec { fleets: fleets(wanted, chain), ..spec.clone() };
        Desired::Child(Box::new(namespace_child(&wanted.name, spec)))
    }

    fn corrected_in() -> (String, String) {
        ("spec.groups".to_owned(), "spec.guardrails".to_owned())
    }

    fn essential(customer: &Customer, child: &CustomerNamespace) -> CustomerNamespace {
        let groups = customer.spec.groups.clone();
        namespace_child(&customer.name_any(), CustomerNamespaceSpec { groups, ..child.spec.clone() })
    }
}

/// The fleets in which the customer has a pool, or will have one: while a pool moves, clients connect to either.
fn fleets(wanted: &Wanted, chain: &Chain) -> Vec<String> {
    let pool = chain.connection_pool.as_deref();
    let status = pool.and_then(|pool| pool.status.as_ref());
    let places = status.into_iter().flat_map(|status| {
        let former = status.former_places.iter().map(|former| &former.place);
        status.place.iter().chain(former).map(|place| &place.fleet)
    });
    let specs = wanted.connection_pool.iter().chain(pool.map(|pool| &pool.spec)).map(|spec| &spec.pg_bouncer_ref);
    let names: BTreeSet<String> = specs.chain(places).map(|fleet| fleet.name.clone()).collect();
    names.into_iter().collect()
}

/// The child of a customer.
pub fn namespace_child(customer: &str, spec: CustomerNamespaceSpec) -> CustomerNamespace {
    let mut child = CustomerNamespace::new(customer, spec);
    child.metadata = child_meta::<CustomerNamespace>(customer, Some(finalizers::CUSTOMER_NAMESPACE));
    child
}
