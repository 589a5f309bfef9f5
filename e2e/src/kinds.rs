//! The kinds of Ahoi, as their definitions name them.

use std::fmt::{self, Display, Formatter};

/// Where the objects of a kind are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// In no namespace.
    Cluster,
    /// In a namespace.
    Namespaced,
}

impl Display for Scope {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Scope::Cluster => "Cluster",
            Scope::Namespaced => "Namespaced",
        })
    }
}

/// The resources of this scope, such as `databases`.
pub fn resources(scope: Scope) -> Vec<String> {
    let all = ahoi_api::crds().into_iter().filter(|crd| crd.spec.scope == scope.to_string());
    all.map(|crd| crd.spec.names.plural).collect()
}

/// The same for kubectl, with the API group: other groups may have kinds of the same names.
pub fn for_kubectl(scope: Scope) -> String {
    let resources = resources(scope).into_iter().map(|resource| format!("{resource}.{}", ahoi_api::GROUP));
    resources.collect::<Vec<_>>().join(",")
}
