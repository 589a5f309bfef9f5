//! Compares the desired state with the live object. Pure.
//!
//! The API server adds defaults, so the two are never equal. An object is as desired if it was last written from the same desired
//! state (a hash in an annotation) and the desired state is a subset of the live one.

use std::collections::BTreeMap;

use ahoi_api::Object;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use serde::Serialize;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use crate::cache::Hash;
use crate::error::Error;

/// The hash of the desired state that an object was last written from.
pub const APPLIED_HASH: &str = "internal.example.com/applied-hash";
/// The names of our labels and annotations, so that those that are no longer desired can be removed without touching others.
pub const APPLIED_KEYS: &str = "internal.example.com/applied-keys";

/// A desired object and its hash.
#[derive(Clone)]
pub(crate) struct Desired<K> {
    /// The object, with the two annotations.
    pub(crate) object: K,
    /// The hash in its annotation.
    pub(crate) hash: Hash,
}

impl<K: Object> Desired<K> {
    /// Annotates a desired object that already refers to its owner.
    pub(crate) fn new(mut object: K) -> Result<Self, Error> {
        let hash = hash(&to_json(&object)?);
        let meta = object.meta_mut();
        let keys = keys_of(meta);
        let annotations = meta.annotations.get_or_insert_default();
        if let Some(keys) = keys {
            annotations.insert(APPLIED_KEYS.to_owned(), keys);
        }
        annotations.insert(APPLIED_HASH.to_owned(), hash.clone());
        Ok(Desired { object, hash })
    }

    /// How the live object differs from the desired one: a path, or that it has something that is no longer desired.
    pub(crate) fn difference(&self, live: &K) -> Result<Option<String>, Error> {
        let (mut desired, found) = (to_json(&self.object)?, to_json(live)?);
        // Of the metadata only these are applied, and the status is not.
        if let Value::Object(desired) = &mut desired {
            desired.remove("status");
            if let Some(Value::Object(meta)) = desired.get_mut("metadata") {
                meta.retain(|key, _| matches!(key.as_str(), "labels" | "annotations"));
                if let Some(Value::Object(annotations)) = meta.get_mut("annotations") {
                    annotations.retain(|key, _| key != APPLIED_HASH && key != APPLIED_KEYS);
                }
            }
        }
        let path = difference(&desired, &found, &mut Vec::new());
        let applied = live.meta().annotations.as_ref().and_then(|annotations| annotations.get(APPLIED_HASH));
        Ok(path.or_else(|| (applied != Some(&self.hash)).then(|| "something that is no longer desired".to_owned())))
    }

    /// The object to PUT: the desired one, with the metadata of the live one except for the labels and annotations that are or
    /// were ours.
    pub(crate) fn over(mut self, live: &K) -> K {
        let ours = std::mem::take(self.object.meta_mut());
        let mut meta = live.meta().clone();
        let was = Keys::read(&meta);
        meta.labels = merged(meta.labels, &was.labels, ours.labels);
        meta.annotations = merged(meta.annotations, &was.annotations, ours.annotations);
        link(&mut meta, ours.owner_references);
        *self.object.meta_mut() = meta;
        self.object
    }

    /// The object to PUT if only the link to the owner is missing: the live one with it. Some kinds, such as Jobs, allow no other
    /// change.
    pub(crate) fn linked(&self, live: &K) -> K {
        let mut linked = live.clone();
        link(linked.meta_mut(), self.object.meta().owner_references.clone());
        linked
    }
}

fn link(meta: &mut ObjectMeta, owners: Option<Vec<OwnerReference>>) {
    for owner in owners.into_iter().flatten() {
        let owners = meta.owner_references.get_or_insert_default();
        // Removes a reference to a former owner: garbage collection would delete the object because of it.
        let group = |owner: &OwnerReference| owner.api_version.rsplit_once('/').map(|(group, _)| group.to_owned());
        owners.retain(|other| {
            (other.kind != owner.kind || other.name != owner.name || group(other) != group(&owner))
                && other.uid != owner.uid
        });
        // The API allows one controller.
        if owner.controller == Some(true) {
            owners.iter_mut().for_each(|other| other.controller = None);
        }
        owners.push(owner);
    }
}

#[derive(Default, Serialize, serde::Deserialize)]
struct Keys {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    labels: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    annotations: Vec<String>,
}

impl Keys {
    fn read(meta: &ObjectMeta) -> Self {
        let text = meta.annotations.as_ref().and_then(|annotations| annotations.get(APPLIED_KEYS));
        let mut keys: Keys = text.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
        keys.annotations.push(APPLIED_KEYS.to_owned());
        keys
    }
}

fn keys_of(meta: &ObjectMeta) -> Option<String> {
    let names = |map: &Option<BTreeMap<String, String>>| map.iter().flatten().map(|(key, _)| key.clone()).collect();
    let keys = Keys { labels: names(&meta.labels), annotations: names(&meta.annotations) };
    if keys.labels.is_empty() && keys.annotations.is_empty() {
        return None;
    }
    serde_json::to_string(&keys).ok()
}

fn merged(
    live: Option<BTreeMap<String, String>>,
    formerly_ours: &[String],
    ours: Option<BTreeMap<String, String>>,
) -> Option<BTreeMap<String, String>> {
    let mut merged = live.unwrap_or_default();
    merged.retain(|key, _| !formerly_ours.contains(key));
    merged.extend(ours.unwrap_or_default());
    Some(merged).filter(|merged| !merged.is_empty())
}

fn to_json<K: Serialize>(object: &K) -> Result<Value, Error> {
    serde_json::to_value(object).map_err(|error| Error::Kube(kube::Error::SerdeError(error)))
}

/// The same for the same content, in whatever order a map comes.
pub(crate) fn hash(value: &Value) -> Hash {
    fn feed(sha: &mut Sha256, value: &Value) {
        match value {
            Value::Object(map) => {
                sha.update("{");
                let sorted: BTreeMap<_, _> = map.iter().filter(|(_, value)| !is_absent(value)).collect();
                for (key, value) in sorted {
                    sha.update(Value::from(key.as_str()).to_string());
                    feed(sha, value);
                }
                sha.update("}");
            }
            Value::Array(items) => {
                sha.update("[");
                items.iter().for_each(|item| feed(sha, item));
                sha.update("]");
            }
            scalar => sha.update(format!("{scalar},")),
        }
    }
    let mut sha = Sha256::new();
    feed(&mut sha, value);
    // Half of it is plenty: this guards against forgetting, not against an adversary.
    sha.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

/// The API server drops what is empty.
fn is_absent(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(map) => map.values().all(is_absent),
        Value::Array(items) => items.is_empty(),
        _ => false,
    }
}

/// The path of the first thing in `desired` that `live` does not have.
pub(crate) fn difference<'a>(desired: &'a Value, live: &Value, path: &mut Vec<&'a str>) -> Option<String> {
    match (desired, live) {
        (Value::Object(desired), Value::Object(live)) => in_map(desired, live, path),
        (Value::Array(desired), Value::Array(live)) if desired.len() == live.len() => {
            path.push("[]");
            let found = desired.iter().zip(live).find_map(|(desired, live)| difference(desired, live, path));
            path.pop();
            found
        }
        (Value::Number(desired), Value::Number(live)) if desired.as_f64() == live.as_f64() => None,
        (Value::String(desired), Value::String(live)) if is_quantity(path) && same_quantity(desired, live) => None,
        (desired, live) if desired == live => None,
        _ => Some(format!(".{}", path.join("."))),
    }
}

fn in_map<'a>(desired: &'a Map<String, Value>, live: &Map<String, Value>, path: &mut Vec<&'a str>) -> Option<String> {
    desired.iter().filter(|(_, value)| !is_absent(value)).find_map(|(key, value)| {
        path.push(key);
        let found = difference(value, live.get(key).unwrap_or(&Value::Null), path);
        path.pop();
        found
    })
}

/// Where Kubernetes has quantities and answers with its own way of writing them: "1000m" becomes "1".
fn is_quantity(path: &[&str]) -> bool {
    const INSIDE: [&str; 8] =
        ["limits", "requests", "hard", "default", "defaultRequest", "min", "max", "maxLimitRequestRatio"];
    const NAMED: [&str; 3] = ["sizeLimit", "divisor", "storage"];
    path.last().is_some_and(|last| NAMED.contains(last)) || path.iter().any(|key| INSIDE.contains(key))
}

pub(crate) fn same_quantity(one: &str, other: &str) -> bool {
    matches!((quantity(one), quantity(other)), (Some(one), Some(other)) if one == other)
}

/// A Kubernetes quantity in nano-units.
fn quantity(text: &str) -> Option<i128> {
    const NANO: i128 = 1_000_000_000;
    let split = text.find(|c: char| !c.is_ascii_digit() && !"+-.".contains(c)).unwrap_or(text.len());
    let (number, suffix) = text.split_at(split);
    let unit: i128 = match suffix {
        "n" => 1,
        "u" => 1_000,
        "m" => 1_000_000,
        "" => NANO,
        "k" => NANO * 1_000,
        "M" => NANO * 1_000_000,
        "G" => NANO * 1_000_000_000,
        "T" => NANO * 1_000_000_000_000,
        "P" => NANO * 1_000_000_000_000_000,
        "E" => NANO * 1_000_000_000_000_000_000,
        "Ki" => NANO << 10,
        "Mi" => NANO << 20,
        "Gi" => NANO << 30,
        "Ti" => NANO << 40,
        "Pi" => NANO << 50,
        "Ei" => NANO << 60,
        exponent => {
            let exponent = exponent.strip_prefix(['e', 'E'])?.parse().ok()?;
            NANO.checked_mul(10_i128.checked_pow(exponent)?)?
        }
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let scale = 10_i128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    format!("{whole}{fraction}").parse::<i128>().ok()?.checked_mul(unit).map(|value| value / scale)
}
