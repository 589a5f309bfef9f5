//! Recording of the writes of a customer: all objects that Ahoi created, in order, with their final bodies. The floor and the peers
//! create the same objects.

use std::collections::BTreeSet;

use ahoi_e2e::SYSTEM;
use ahoi_e2e::audit::{Audit, ObjectRef, Request};
use anyhow::{Context as _, Result, ensure};
use kube::Client;
use serde_json::{Value, json};

use crate::bench::{Bench, ahoi_api_version, fan_out_spec};

/// Placeholder for the name of the customer.
pub const NAME: &str = "@NAME@";
/// Name of the recorded customer, unique in all texts.
const RECORDED: &str = "bench-recorded-customer";

/// How an object is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// POST of the object.
    Create,
    /// Server-side apply, for objects that may exist, such as the default ServiceAccount.
    Apply,
    /// Merge patch of the status.
    Status,
}

/// Write.
#[derive(Clone, Debug)]
pub struct Step {
    /// Kind of the write.
    pub how: How,
    /// Path.
    pub path: String,
    /// JSON body. `@NAME@` is the customer, `@UIDn@` the uid of the object of step n.
    pub body: String,
    /// Whether the body of another step contains the uid of this object.
    pub referenced: bool,
}

/// All writes of a customer.
#[derive(Clone, Debug, Default)]
pub struct Recorded {
    /// Writes, in an order that is possible.
    pub steps: Vec<Step>,
}

impl Recorded {
    /// Creates a customer, records the writes of Ahoi, and deletes the customer.
    pub async fn take(bench: &Bench) -> Result<Recorded> {
        let client = &bench.cluster.client;
        let mark = Audit::mark()?;
        bench.cluster.create_customer_with(RECORDED, fan_out_spec()).await?;
        bench.cluster.ready(RECORDED).await?;
        bench.quiet(SYSTEM, 3).await?;
        let requests = mark.since()?;

        let customer = get(client, &format!("/apis/{}/customers/{RECORDED}", ahoi_api_version())).await?;
        let mut objects = vec![(How::Create, format!("/apis/{}/customers", ahoi_api_version()), customer)];
        for (how, collection) in collections(&requests) {
            for object in made_by_the_suite(client, &collection).await? {
                objects.push((how, collection.clone(), object));
            }
        }
        let statuses: BTreeSet<String> = requests
            .iter()
            .filter(|r| r.object_ref.subresource == "status")
            .map(|r| r.object_ref.resource.clone())
            .collect();
        bench.cluster.delete_customer(RECORDED).await?;
        let recorded = steps(objects, &statuses);
        ensure!(recorded.steps.len() > 5, "only {} writes of a customer were recorded", recorded.steps.len());
        Ok(recorded)
    }

    /// Returns the objects for a program that is not part of Ahoi: without the Customer and without the marks of our controllers.
    /// Objects of our kinds have their final status.
    pub fn children(&self) -> Result<Vec<Value>> {
        let objects = self.steps.iter().skip(1).filter(|step| step.how != How::Status);
        objects
            .map(|step| {
                let mut object = without_marks(serde_json::from_str(&step.body)?);
                if let Some(status) = self.status_of(step, &object) {
                    object["status"] = serde_json::from_str::<Value>(&status.body)?["status"].take();
                }
                Ok(object)
            })
            .collect()
    }

    fn status_of(&self, made: &Step, object: &Value) -> Option<&Step> {
        let collection = made.path.split('?').next()?;
        let path = format!("{collection}/{}/status?", object["metadata"]["name"].as_str()?);
        self.steps.iter().find(|step| step.how == How::Status && step.path.starts_with(&path))
    }
}

fn without_marks(mut object: Value) -> Value {
    let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) else { return object };
    for field in ["finalizers", "ownerReferences", "annotations"] {
        metadata.remove(field);
    }
    if let Some(labels) = metadata.get_mut("labels").and_then(Value::as_object_mut) {
        labels.retain(|_, value| !value.as_str().is_some_and(|value| value.starts_with("@UID")));
    }
    object
}

async fn get(client: &Client, path: &str) -> Result<Value> {
    let request = http::Request::get(path).body(Vec::new())?;
    client.request(request).await.with_context(|| format!("GET {path}"))
}

/// Returns the resources and namespaces of created objects, in the order of their first object.
fn collections(requests: &[Request]) -> Vec<(How, String)> {
    let mut places: Vec<(How, String)> = Vec::new();
    for Request { verb, object_ref, .. } in requests {
        let how = match verb.as_str() {
            "create" => How::Create,
            "patch" if object_ref.resource == "serviceaccounts" => How::Apply,
            _ => continue,
        };
        if !object_ref.subresource.is_empty() || matches!(object_ref.resource.as_str(), "events" | "leases") {
            continue;
        }
        let place = collection(object_ref);
        if !places.iter().any(|(_, known)| *known == place) {
            places.push((how, place));
        }
    }
    places
}

fn collection(object: &ObjectRef) -> String {
    let ObjectRef { group, version, resource, namespace, .. } = object;
    let group = if group.is_empty() { format!("/api/{version}") } else { format!("/apis/{group}/{version}") };
    // A Namespace is in its own namespace.
    if namespace.is_empty() || resource == "namespaces" {
        format!("{group}/{resource}")
    } else {
        format!("{group}/namespaces/{namespace}/{resource}")
    }
}

async fn made_by_the_suite(client: &Client, collection: &str) -> Result<Vec<Value>> {
    let mut list = get(client, collection).await?;
    let kind = list["kind"].as_str().unwrap_or_default().trim_end_matches("List").to_owned();
    let version = list["apiVersion"].clone();
    let Value::Array(items) = list["items"].take() else { return Ok(Vec::new()) };
    let ours = items.into_iter().filter(is_of_the_recorded);
    Ok(ours
        .map(|mut item| {
            item["kind"] = json!(kind);
            item["apiVersion"] = version.clone();
            item
        })
        .collect())
}

fn is_of_the_recorded(object: &Value) -> bool {
    let metadata = &object["metadata"];
    let within = |field: &str| metadata[field].as_str().is_some_and(|value| value.contains(RECORDED));
    let managers = metadata["managedFields"].as_array();
    let by_the_suite =
        managers.into_iter().flatten().any(|m| m["manager"].as_str().is_some_and(|m| m.starts_with("ahoi-")));
    by_the_suite && (within("name") || within("namespace"))
}

/// Returns the writes for `objects`, and then for the statuses of `statuses`.
fn steps(objects: Vec<(How, String, Value)>, statuses: &BTreeSet<String>) -> Recorded {
    let uids: Vec<String> = objects
        .iter()
        .map(|(_, _, object)| object["metadata"]["uid"].as_str().unwrap_or_default().to_owned())
        .collect();
    let general = |text: String| {
        let mut text = text.replace(RECORDED, NAME);
        for (n, uid) in uids.iter().enumerate().filter(|(_, uid)| !uid.is_empty()) {
            text = text.replace(uid, &format!("@UID{n}@"));
        }
        text
    };
    let mut made: Vec<Step> = Vec::new();
    let mut status_steps: Vec<Step> = Vec::new();
    for (how, collection, mut object) in objects {
        let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let resource = collection.rsplit('/').next().unwrap_or_default();
        let status = object.as_object_mut().and_then(|object| object.remove("status"));
        if let Some(status) = status.filter(|_| statuses.contains(resource) && collection.contains(ahoi_api::GROUP)) {
            status_steps.push(Step {
                how: How::Status,
                path: general(format!("{collection}/{name}/status?fieldManager=ahoi-bench")),
                body: general(json!({"status": status}).to_string()),
                referenced: false,
            });
        }
        // Only our field of the account: Kubernetes adds the others.
        if how == How::Apply {
            object = json!({"apiVersion": object["apiVersion"], "kind": object["kind"],
                "metadata": {"name": name, "namespace": object["metadata"]["namespace"]},
                "automountServiceAccountToken": object["automountServiceAccountToken"]});
        }
        strip(&mut object);
        let path = match how {
            How::Apply => format!("{collection}/{name}?fieldManager=ahoi-bench&force=true"),
            _ => format!("{collection}?fieldManager=ahoi-bench"),
        };
        made.push(Step { how, path: general(path), body: general(object.to_string()), referenced: false });
    }
    for n in 0..made.len() {
        let mark = format!("@UID{n}@");
        made[n].referenced = made.iter().any(|step| step.body.contains(&mark));
    }
    // The status of the Customer last.
    status_steps.reverse();
    made.extend(status_steps);
    Recorded { steps: made }
}

/// Removes fields that the API server adds.
fn strip(object: &mut Value) {
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        for field in ["uid", "resourceVersion", "generation", "creationTimestamp", "managedFields"] {
            metadata.remove(field);
        }
        if let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) {
            annotations.retain(|key, _| !key.starts_with("deployment.kubernetes.io/"));
        }
    }
    if object["kind"] == "Namespace"
        && let Some(object) = object.as_object_mut()
    {
        object.remove("spec");
    }
}

#[cfg(test)]
mod tests;
