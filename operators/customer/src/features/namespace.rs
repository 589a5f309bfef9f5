//! The namespace that every customer has.

use std::collections::BTreeSet;

use ahoi_api::{Customer, CustomerNamespace, CustomerNamespaceSpec, Features, NamespaceDeletionPolicy, finalizers};
use kube::ResourceExt;

use super::chain::Chain;
use super::feature::{Desired, Feature, wait_for_namespace};
use super::inputs::Inputs;
use crate::children::child_meta;
use crate::wanted::Wanted;

/// The namespace of a customer.
pub struct NamespaceFeature;

impl Feature for NamespaceFeature {
    type Child = CustomerNamespace;
    const NAME: &'static str = "namespace";
    const CONDITION: &'static str = "NamespaceReady";
    // Its guard rails are the Plan's, and its groups are spec.groups of the Customer as well.
    const FIELDS: &'static [&'static str] = &[];

    fn enabled(_features: &Features) -> Option<bool> {
        Some(true)
    }

    fn resolve(inputs: &Inputs<'_>, _wanted: &mut Wanted) -> Option<CustomerNamespaceSpec> {
        Some(CustomerNamespaceSpec {
            guardrails: inputs.plan.map(|plan| plan.spec.guardrails.clone()).unwrap_or_default(),
            groups: inputs.customer.spec.groups.clone(),
            ..CustomerNamespaceSpec::default()
        })
    }

    fn adjust(_inputs: &Inputs<'_>, wanted: &mut Wanted) {
        let direct_database = wanted.database.is_some();
        if let Some(namespace) = &mut wanted.namespace {
            namespace.direct_database = direct_database;
        }
    }

    fn desired(wanted: &Wanted, chain: &Chain) -> Desired<CustomerNamespace> {
        // It exists as long as the Customer.
        let Some(spec) = &wanted.namespace else { return wait_for_namespace(wanted) };
        let spec = CustomerNamespaceSpec { fleets: fleets(wanted, chain), ..spec.clone() };
        Desired::Child(Box::new(namespace_child(&wanted.name, spec)))
    }

    fn essential(customer: &Customer, child: &CustomerNamespace) -> CustomerNamespace {
        let groups = customer.spec.groups.clone();
        namespace_child(&customer.name_any(), CustomerNamespaceSpec { groups, ..child.spec.clone() })
    }

    fn corrected_in() -> (String, String) {
        ("spec.groups".to_owned(), "spec.guardrails".to_owned())
    }

    fn apply_deletion_policy(_customer: &Customer, child: &mut CustomerNamespace) {
        child.spec.deletion_policy = NamespaceDeletionPolicy::Delete;
    }
}

/// The PgBouncer fleets in which the customer has a pool, or will have one. While a pool moves, clients connect to both.
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

/// The CustomerNamespace of a customer.
pub fn namespace_child(customer: &str, spec: CustomerNamespaceSpec) -> CustomerNamespace {
    let mut child = CustomerNamespace::new(customer, spec);
    child.metadata = child_meta::<CustomerNamespace>(customer, Some(finalizers::CUSTOMER_NAMESPACE));
    child
}
