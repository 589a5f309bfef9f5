//! All kinds, with the types of their status.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;
use kube::core::object::{HasSpec, HasStatus};
use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde_json::Value;

use crate::*;

/// A definition as kube derives it, and the schemas with the documentation of each variant, which kube leaves out.
pub(crate) struct Definition {
    pub crd: CustomResourceDefinition,
    pub spec: Value,
    pub status: Value,
}

fn definition<K>() -> Definition
where
    K: CustomResourceExt + HasSpec<Spec: JsonSchema> + HasStatus<Status: JsonSchema>,
{
    Definition { crd: K::crd(), spec: documented::<K::Spec>(), status: documented::<K::Status>() }
}

fn documented<T: JsonSchema>() -> Value {
    let settings = SchemaSettings::openapi3().with(|settings| settings.inline_subschemas = true);
    settings.into_generator().into_root_schema_for::<T>().into()
}

macro_rules! kinds {
    ($($kind:ident: $status:ident,)+) => {
        conditioned! { $($kind: $status,)+ }

        /// The definitions of all kinds.
        pub(crate) fn definitions() -> Vec<Definition> {
            vec![$(definition::<$kind>(),)+]
        }

        /// The API server gives this status to a new object; controllers must be able to read it.
        #[test]
        fn the_default_status_of_every_kind_can_be_read() {
            $(
                let crd = crds().into_iter().find(|crd| crd.spec.names.kind == stringify!($kind)).unwrap();
                let schema = serde_json::to_value(crd.spec.versions[0].schema.as_ref()).unwrap();
                let default = schema["openAPIV3Schema"]["properties"]["status"]["default"].clone();
                let status: $status = serde_json::from_value(default).unwrap();
                assert_eq!(status.conditions[0].last_transition_time, NO_TRANSITION);
            )+
        }
    };
}

// In the order in which a reader meets them.
kinds! {
    Customer: CustomerStatus,
    Plan: PlanStatus,
    CustomerNamespace: CustomerNamespaceStatus,
    DatabaseServer: DatabaseServerStatus,
    Database: DatabaseStatus,
    PgBouncer: PgBouncerStatus,
    ConnectionPool: ConnectionPoolStatus,
    Scheduler: SchedulerStatus,
}
