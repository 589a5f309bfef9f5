//! The desired state of a customer.

use kube::core::object::HasSpec;

use crate::held::Held;

macro_rules! wanted {
    ($($feature:ident: $type:ident => $kind:ident,)+) => {
        /// The desired state of a customer: the spec of each child, as far as Customer and Plan determine it. `None`: the feature is
        /// off, or a field that cannot be applied prevents its creation.
        #[derive(Debug, Default)]
        pub struct Wanted {
            pub name: String,
            pub plan: Option<String>,
            pub suspended: bool,
            $(pub $feature: Option<<ahoi_api::$kind as HasSpec>::Spec>,)+
            /// The enabled features that are not part of this release.
            pub announced: Vec<&'static str>,
            /// Default storage in bytes, while the feature `database` is on.
            pub default_storage: Option<i64>,
            /// The parts of the spec that are not applied, and why.
            pub held: Vec<Held>,
        }
    };
}
each_feature!(wanted);
