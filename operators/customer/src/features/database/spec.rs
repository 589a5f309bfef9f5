//! The Database of a customer.

use ahoi_api::{AdoptionPolicy, Credentials, Customer, Database, DatabaseSpec, DeletionPolicy, Plan, finalizers};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::storage;
use crate::children::child_meta;
use crate::features::chain::Chain;
use crate::features::inputs::{Inputs, Settings};

/// The customer's Database.
pub fn database_child(customer: &str, spec: DatabaseSpec) -> Database {
    let mut child = Database::new(customer, spec);
    child.metadata = child_meta::<Database>(customer, Some(finalizers::DATABASE));
    child
}

/// The spec of the Database, with the built-in storage.
pub fn database_spec(inputs: &Inputs<'_>) -> DatabaseSpec {
    let database = inputs.settings(|features| features.database.as_ref());
    DatabaseSpec {
        storage: storage::built_in(),
        server_selector: database.field(|f| f.server_selector.clone()).unwrap_or_default(),
        connection_limit: database.field(|f| f.connection_limit),
        parameters: database.map(|f| f.parameters.clone()),
        extensions: database.field(|f| f.extensions.clone()).unwrap_or_default(),
        credentials: credentials(&database),
        refuse_data_before: refuse_data_before(inputs),
        // Turning the feature off must not destroy data. The Customer's policy is copied when the Customer is deleted.
        deletion_policy: DeletionPolicy::Retain,
    }
}

/// The spec that the Database would have if the feature were on.
pub fn database_if_on(customer: &Customer, plan: Option<&Plan>) -> DatabaseSpec {
    // With nothing in force, no field is held back.
    let inputs = Inputs { customer, plan, in_force: &Chain::default(), system_namespace: "" };
    let storage = storage::resolve(&inputs, &mut Vec::new()).size;
    let spec = database_spec(&inputs);
    DatabaseSpec { storage: storage.unwrap_or(spec.storage), ..spec }
}

/// Data that is older than the Customer belongs to another one, if the adoption policy is `Refuse`.
fn refuse_data_before(inputs: &Inputs<'_>) -> Option<Time> {
    let Inputs { customer, plan, .. } = inputs;
    let policy = customer.spec.adoption_policy.or_else(|| plan.and_then(|plan| plan.spec.adoption_policy));
    let is_refused = policy.unwrap_or_default() == AdoptionPolicy::Refuse;
    customer.metadata.creation_timestamp.clone().filter(|_| is_refused)
}

/// `None`: neither Customer nor Plan sets a field of them.
fn credentials(database: &Settings<'_, ahoi_api::DatabaseFeature>) -> Option<Credentials> {
    let field = |get: fn(&Credentials) -> Option<String>| database.field(|f| f.credentials.as_ref().and_then(get));
    let credentials = Credentials {
        rotation_interval: field(|c| c.rotation_interval.clone()),
        rotation_request: field(|c| c.rotation_request.clone()),
    };
    (credentials != Credentials::default()).then_some(credentials)
}
