//! Requests for objects of any kind and scope.
//!
//! kube's `Api` needs the scope at compile time. Here one function serves cluster-scoped and namespaced kinds, so requests are built
//! from the object's own namespace.

use std::marker::PhantomData;

use ahoi_api::{Conditioned, Object, Reason};
use kube::Client;
use kube::api::{DeleteParams, GetParams, Patch, PatchParams, PostParams, Preconditions, PropagationPolicy, Request};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::cache::Key;
use crate::decode::decode;
use crate::error::Error;

/// The object after a delete.
pub(crate) enum Deleted<K> {
    /// It exists until its finalizers are removed or its grace period ends.
    Terminating(Box<K>),
    /// It does not exist any more.
    Gone,
}

/// Requests for objects of one kind, by one field manager.
#[derive(Clone)]
pub(crate) struct Objects<K> {
    client: Client,
    manager: String,
    kind: PhantomData<fn() -> K>,
}

impl<K: Object> Objects<K> {
    pub(crate) fn new(client: Client, manager: &str) -> Self {
        Objects { client, manager: manager.to_owned(), kind: PhantomData }
    }

    fn at(key: &Key) -> Request {
        let namespace = Some(&*key.namespace).filter(|namespace| !namespace.is_empty());
        Request::new(K::url_path(&(), namespace))
    }

    async fn send(&self, request: Result<http::Request<Vec<u8>>, kube::core::request::Error>) -> Result<K, Error> {
        let request = request.map_err(kube::Error::BuildRequest)?;
        read(&self.client.request_text(request).await?)
    }

    /// Applies a partial object by server-side apply.
    pub(crate) async fn server_side_apply(&self, key: &Key, object: &Value) -> Result<K, Error> {
        let params = PatchParams { force: true, ..self.patching() };
        self.send(Self::at(key).patch(&key.name, &params, &Patch::Apply(object))).await
    }

    fn posting(&self) -> PostParams {
        PostParams { field_manager: Some(self.manager.clone()), ..PostParams::default() }
    }

    fn patching(&self) -> PatchParams {
        PatchParams { field_manager: Some(self.manager.clone()), ..PatchParams::default() }
    }

    pub(crate) async fn get(&self, key: &Key) -> Result<K, Error> {
        self.send(Self::at(key).get(&key.name, &GetParams::default())).await
    }

    pub(crate) async fn delete(&self, object: &K, propagation: PropagationPolicy) -> Result<Deleted<K>, Error> {
        let key = Key::of(object);
        // Deletes the object that was read, not a new one of its name.
        let preconditions = Preconditions { uid: object.meta().uid.clone(), resource_version: None };
        let params = DeleteParams {
            propagation_policy: Some(propagation),
            preconditions: Some(preconditions),
            ..DeleteParams::default()
        };
        let request = Self::at(&key).delete(&key.name, &params).map_err(kube::Error::BuildRequest)?;
        match self.client.request_text(request).await {
            // The answer is the object, or a Status if it was deleted. For some kinds it is the object in both cases.
            Ok(answer) if is_status(&answer) => Ok(Deleted::Gone),
            Ok(answer) => match read::<K>(&answer)? {
                object if object.meta().deletion_timestamp.is_some() => Ok(Deleted::Terminating(Box::new(object))),
                _ => Ok(Deleted::Gone),
            },
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(Deleted::Gone),
            Err(error) => Err(error.into()),
        }
    }

    /// Replaces the finalizers, if the object has not changed since it was read.
    pub(crate) async fn set_finalizers(&self, object: &K, finalizers: &[String]) -> Result<K, Error> {
        let key = Key::of(object);
        let version = &object.meta().resource_version;
        let patch = json!({"metadata": {"resourceVersion": version, "finalizers": finalizers}});
        self.send(Self::at(&key).patch(&key.name, &self.patching(), &Patch::Merge(patch))).await
    }
}

impl<K: Object> Objects<K> {
    pub(crate) async fn create(&self, object: &K) -> Result<K, Error> {
        self.send(Self::at(&Key::of(object)).create(&self.posting(), to_bytes(object)?)).await
    }

    /// Whether the API server would accept the object as a new one. Creates nothing.
    pub(crate) async fn is_valid(&self, object: &K) -> Result<bool, Error> {
        let trial = PostParams { dry_run: true, ..self.posting() };
        match self.send(Self::at(&Key::of(object)).create(&trial, to_bytes(object)?)).await {
            Ok(_) => Ok(true),
            // Validation comes before the check of the name.
            Err(Error::Kube(kube::Error::Api(status))) if status.is_already_exists() => Ok(true),
            Err(Error::Kube(kube::Error::Api(status))) if status.code == 422 => Ok(false),
            Err(error) => Err(error),
        }
    }

    pub(crate) async fn replace(&self, object: &K) -> Result<K, Error> {
        let key = Key::of(object);
        self.send(Self::at(&key).replace(&key.name, &self.posting(), to_bytes(object)?)).await
    }
}

impl<K: Conditioned> Objects<K> {
    /// Writes the fields of the status that changed. A reconciler that returns a field unchanged does not overwrite what others
    /// write there, such as reports of agents. The test on the uid protects a recreated object. There is no test on the version:
    /// each field has one writer, and the spec may change at any time.
    pub(crate) async fn set_status(&self, object: &K, status: &K::Status) -> Result<K, Error> {
        let key = Key::of(object);
        let mut patch = vec![json!({"op": "test", "path": "/metadata/uid", "value": object.meta().uid})];
        patch.extend(status_changes(&to_value(&object.status())?, &to_value(status)?));
        let patch: kube::core::params::Patch<()> =
            Patch::Json(serde_json::from_value(patch.into()).map_err(kube::Error::SerdeError)?);
        self.send(Self::at(&key).patch_subresource("status", &key.name, &self.patching(), &patch)).await
    }
}

/// Decodes an object from an answer of the API server.
fn read<K: Object>(answer: &str) -> Result<K, Error> {
    let unreadable =
        |why| Error::structural(Reason::Unreadable, format!("this release cannot read the {}: {why}", K::kind(&())));
    decode(answer).map_err(unreadable)
}

fn is_status(answer: &str) -> bool {
    #[derive(Deserialize)]
    struct Answer<'a> {
        #[serde(default)]
        kind: &'a str,
    }
    serde_json::from_str(answer).is_ok_and(|Answer { kind }| kind == "Status")
}

/// The JSON patch that turns one status into the other.
fn status_changes(old: &Value, new: &Value) -> Vec<Value> {
    let (Value::Object(old), Value::Object(new)) = (old, new) else {
        return vec![json!({"op": "add", "path": "/status", "value": new})];
    };
    let changed = new.iter().filter(|(field, value)| old.get(*field) != Some(value));
    let removed = old.keys().filter(|field| !new.contains_key(*field));
    changed
        .map(|(field, value)| json!({"op": "add", "path": format!("/status/{field}"), "value": value}))
        .chain(removed.map(|field| json!({"op": "remove", "path": format!("/status/{field}")})))
        .collect()
}

fn to_value<T: Serialize>(value: &T) -> Result<Value, Error> {
    Ok(serde_json::to_value(value).map_err(kube::Error::SerdeError)?)
}

fn to_bytes<K: Serialize>(object: &K) -> Result<Vec<u8>, Error> {
    Ok(serde_json::to_vec(object).map_err(kube::Error::SerdeError)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_fields_that_changed_are_written() {
        let old = json!({"summary": "1/2", "processes": [1], "error": "x"});
        let new = json!({"summary": "2/2", "processes": [1], "host": "h"});
        let expected = [
            json!({"op": "remove", "path": "/status/error"}),
            json!({"op": "add", "path": "/status/host", "value": "h"}),
            json!({"op": "add", "path": "/status/summary", "value": "2/2"}),
        ];
        let mut changes = status_changes(&old, &new);
        // The order of a map depends on serde_json's features, which any crate of a build may turn on.
        changes.sort_by_key(|change| change["path"].to_string());
        assert_eq!(changes, expected);
        assert_eq!(status_changes(&Value::Null, &new), [json!({"op": "add", "path": "/status", "value": new})]);
    }
}
