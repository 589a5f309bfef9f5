//! What the parts do together, against the recording API server.

use kube::core::ObjectMeta;
use kube::{CustomResource, Resource};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::conditioned;
use crate::conditions::Condition;
use crate::testing::ApiServer;

mod controllers;
mod hostile;
mod owning;
mod pure;
mod reconciles;
mod replicas;
mod unready;
mod workqueue;

/// A cluster-scoped kind with a status.
#[derive(CustomResource, Serialize, Deserialize, Clone, Debug, Default, PartialEq, JsonSchema)]
#[kube(group = "example.com", version = "v1", kind = "Ship", status = "ShipStatus", derive = "PartialEq")]
#[serde(default)]
pub struct ShipSpec {
    sails: i32,
}

#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ShipStatus {
    observed_generation: Option<i64>,
    sails: i32,
    conditions: Vec<Condition>,
}

conditioned!(Ship: ShipStatus);

/// A ship that the server knows.
fn ship(server: &ApiServer, name: &str) -> Ship {
    server.put(&Ship::new(name, ShipSpec { sails: 3 }))
}

fn named<K: Resource>(mut object: K, namespace: &str, name: &str) -> K {
    let meta = object.meta_mut();
    *meta = ObjectMeta { name: Some(name.to_owned()), namespace: Some(namespace.to_owned()), ..std::mem::take(meta) };
    object
}

fn map<const N: usize>(entries: [(&str, &str); N]) -> std::collections::BTreeMap<String, String> {
    entries.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}
