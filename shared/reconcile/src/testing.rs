//! For unit tests of operators: an API server in memory that records requests, and fixtures.
//!
//! It has objects with versions, finalizers, uid preconditions and the two kinds of patches that this crate sends. Its watches
//! never deliver anything, so a test that reads its own writes proves that the cache has them. It has no validation, no defaults
//! and no garbage collection: test those on a real cluster.

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::sync::Arc;

use ahoi_api::{Conditioned, Object};
use http::Response;
use kube::Client;
use kube::client::Body;
use kube::runtime::watcher::Event;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::cache::{Cache, Item};
use crate::conditions::{self, Verdict};
use crate::metrics::Requests;
use crate::partitions::Partitions;
use crate::platform::{Platform, Process};

/// A request as the server saw it.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// "GET", "POST", "PUT", "PATCH", "DELETE"
    pub method: String,
    /// Without the query.
    pub path: String,
    /// The parameters after the `?`.
    pub query: String,
    /// `Null` where there is none.
    pub body: Value,
}

/// The server. Clones share their state.
#[derive(Clone, Debug, Default)]
pub struct ApiServer(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    objects: BTreeMap<String, Value>,
    requests: Vec<Request>,
    /// Answers to the next requests of a method, instead of the correct ones.
    canned: VecDeque<(String, u16, Value)>,
    version: u64,
}

type Answer = (u16, Value);

impl ApiServer {
    /// A server without objects.
    pub fn new() -> Self {
        Self::default()
    }

    /// A client of this server.
    pub fn client(&self) -> Client {
        let server = self.clone();
        let service = tower::service_fn(move |request: http::Request<Body>| {
            let server = server.clone();
            async move {
                if request.uri().query().unwrap_or_default().contains("watch=true") {
                    return std::future::pending().await;
                }
                let (head, body) = request.into_parts();
                let bytes = body.collect_bytes().await.unwrap_or_default();
                let request = Request {
                    method: head.method.to_string(),
                    path: head.uri.path().to_owned(),
                    query: head.uri.query().unwrap_or_default().to_owned(),
                    body: serde_json::from_slice(&bytes).unwrap_or_default(),
                };
                let (code, answer) = server.0.lock().handle(request);
                let mut response = Response::new(Body::from(answer.to_string().into_bytes()));
                *response.status_mut() = http::StatusCode::from_u16(code).unwrap_or_default();
                Ok::<_, Infallible>(response)
            }
        });
        Client::new(service, "default")
    }

    /// A platform on this server, called "test".
    pub fn platform(&self) -> Platform {
        self.replica("test-0", self.client(), Partitions::whole())
    }

    /// One of several replicas.
    pub(crate) fn replica(&self, instance: &str, client: Client, partitions: Partitions) -> Platform {
        let (failures, _) = mpsc::unbounded_channel();
        let (name, namespace) = ("test".to_owned(), "ahoi-system".to_owned());
        let process = Process { name, instance: instance.to_owned(), namespace, concurrency: 16, partitions };
        Platform::new(client, process, Requests::default(), failures)
    }

    /// Creates or replaces an object as another client would. Returns the stored object.
    pub fn put<K: Object>(&self, object: &K) -> K {
        let mut state = self.0.lock();
        let path = path_of(object);
        let existed = state.objects.remove(&path);
        let mut value = serde_json::to_value(object).unwrap_or_default();
        let uid = existed.map(|existed| existed["metadata"]["uid"].clone());
        if let Some(uid) = uid.filter(|_| value["metadata"]["uid"].is_null()) {
            value["metadata"]["uid"] = uid;
        }
        decode(state.store(path, value))
    }

    /// Stores any value; `path` as in "/api/v1/namespaces/a/configmaps/b".
    pub fn put_value(&self, path: &str, value: Value) {
        self.0.lock().store(path.to_owned(), value);
    }

    /// The stored object.
    pub fn get<K: Object>(&self, object: &K) -> Option<K> {
        self.0.lock().objects.get(&path_of(object)).cloned().map(decode)
    }

    /// Removes an object.
    pub fn remove<K: Object>(&self, object: &K) {
        self.0.lock().objects.remove(&path_of(object));
    }

    /// Sets the answer to the next request of this method.
    pub fn answer_next(&self, method: &str, code: u16, body: Value) {
        self.0.lock().canned.push_back((method.to_owned(), code, body));
    }

    /// Every request since the last call, including reads.
    pub fn take_requests(&self) -> Vec<Request> {
        std::mem::take(&mut self.0.lock().requests)
    }

    /// Every write since the last call except for events, as "POST /api/v1/namespaces/a/configmaps".
    pub fn take_writes(&self) -> Vec<String> {
        let writes = self.take_requests().into_iter();
        let writes = writes.filter(|request| request.method != "GET" && !request.path.ends_with("/events"));
        writes.map(|request| format!("{} {}", request.method, request.path)).collect()
    }
}

impl State {
    fn handle(&mut self, request: Request) -> Answer {
        self.requests.push(request.clone());
        let canned = self.canned.iter().position(|(method, ..)| *method == request.method);
        if let Some((_, code, body)) = canned.and_then(|position| self.canned.remove(position)) {
            return (code, body);
        }
        let path = request.path.trim_end_matches("/status").to_owned();
        let only_status = path != request.path;
        match request.method.as_str() {
            "GET" if is_collection(&path) => (200, self.list(&path)),
            "GET" => self.objects.get(&path).map_or_else(not_found, |object| (200, object.clone())),
            "POST" => self.create(path, request.body, request.query.contains("dryRun=All")),
            "PUT" | "PATCH" => self.change(path, &request.body, only_status),
            "DELETE" => self.delete(path, &request.body),
            _ => (405, failure(405, "MethodNotAllowed", "no such method")),
        }
    }

    fn list(&self, collection: &str) -> Value {
        let items = self.objects.iter().filter(|(path, _)| {
            let own = path.rsplit_once('/').map_or("", |(own, _)| own);
            own == collection || without_namespace(own) == collection
        });
        let items: Vec<&Value> = items.map(|(_, object)| object).collect();
        let version = self.version.to_string();
        json!({"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": version}, "items": items})
    }

    fn create(&mut self, collection: String, body: Value, is_trial: bool) -> Answer {
        let name = body["metadata"]["name"].as_str().unwrap_or_default();
        let path = format!("{collection}/{name}");
        if self.objects.contains_key(&path) {
            return (409, failure(409, "AlreadyExists", "it exists already"));
        }
        (201, if is_trial { body } else { self.store(path, body) })
    }

    fn change(&mut self, path: String, body: &Value, only_status: bool) -> Answer {
        let Some(old) = self.objects.get(&path).cloned() else { return not_found() };
        let expected = &body["metadata"]["resourceVersion"];
        if !expected.is_null() && *expected != old["metadata"]["resourceVersion"] {
            return (409, failure(409, "Conflict", "the object has been modified"));
        }
        let mut new = old.clone();
        if let Some(operations) = body.as_array() {
            for operation in operations {
                let pointer = operation["path"].as_str().unwrap_or_default();
                if operation["op"] == "test" && new.pointer(pointer) != Some(&operation["value"]) {
                    return (422, failure(422, "Invalid", "testing value failed"));
                }
                let (parent, field) = pointer.rsplit_once('/').unwrap_or_default();
                let Some(Value::Object(parent)) = new.pointer_mut(parent) else {
                    return (422, failure(422, "Invalid", "the path does not exist"));
                };
                if operation["op"] == "add" {
                    parent.insert(field.to_owned(), operation["value"].clone());
                } else if operation["op"] == "remove" {
                    parent.remove(field);
                }
            }
        } else if body["kind"].is_null() {
            merge(&mut new, body);
        } else {
            new = body.clone();
            new["metadata"]["uid"] = old["metadata"]["uid"].clone();
            new["metadata"]["generation"] = old["metadata"]["generation"].clone();
            new["status"] = old["status"].clone();
        }
        if only_status {
            let status = new["status"].take();
            new = old.clone();
            new["status"] = status;
        } else if new["spec"] != old["spec"] {
            let generation = old["metadata"]["generation"].as_i64().unwrap_or(1);
            new["metadata"]["generation"] = json!(generation + 1);
        }
        prune_nulls(&mut new);
        if new == old {
            return (200, old);
        }
        let deleting = !new["metadata"]["deletionTimestamp"].is_null();
        if deleting && new["metadata"]["finalizers"].as_array().is_none_or(Vec::is_empty) {
            self.objects.remove(&path);
            return (200, new);
        }
        (200, self.store(path, new))
    }

    fn delete(&mut self, path: String, body: &Value) -> Answer {
        let Some(object) = self.objects.get(&path).cloned() else { return not_found() };
        let uid = &body["preconditions"]["uid"];
        if !uid.is_null() && *uid != object["metadata"]["uid"] {
            return (409, failure(409, "Conflict", "the uid is another one"));
        }
        if object["metadata"]["finalizers"].as_array().is_some_and(|finalizers| !finalizers.is_empty()) {
            let mut object = object;
            object["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
            return (200, self.store(path, object));
        }
        self.objects.remove(&path);
        (200, json!({"apiVersion": "v1", "kind": "Status", "status": "Success"}))
    }

    fn store(&mut self, path: String, mut object: Value) -> Value {
        self.version += 1;
        let meta = &mut object["metadata"];
        meta["resourceVersion"] = json!(self.version.to_string());
        if meta["uid"].is_null() {
            meta["uid"] = json!(format!("uid-{}", self.version));
            meta["creationTimestamp"] = json!("2026-01-01T00:00:00Z");
        }
        let counted = !object["spec"].is_null() && object["metadata"]["generation"].is_null();
        if counted {
            object["metadata"]["generation"] = json!(1);
        }
        prune_nulls(&mut object);
        self.objects.insert(path, object.clone());
        object
    }
}

/// A complete cache of these objects.
pub fn cache<K: Object>(objects: impl IntoIterator<Item = K>) -> Cache<K> {
    let cache = Cache::new(Box::new(|_| ()), false);
    cache.observe(Event::Init);
    objects.into_iter().for_each(|object| cache.observe(Event::InitApply(object)));
    cache.observe(Event::InitDone);
    cache
}

/// Delivers a change of the object to the cache.
pub fn changed<K: Object>(cache: &Cache<K>, object: K) {
    cache.observe(Event::Apply(object));
}

/// Delivers the object to the cache as one that cannot be decoded.
pub fn unreadable<K: Object>(cache: &Cache<K>, object: &K) {
    cache.receive(Event::Apply(Item::unreadable(object.meta().clone())));
}

/// Delivers the deletion of the object to the cache.
pub fn gone<K: Object>(cache: &Cache<K>, object: K) {
    cache.observe(Event::Delete(object));
}

/// The object with the status Ready for its current generation.
pub fn ready<K: Conditioned>(object: K) -> K {
    settled(object, Verdict::ready("ready"))
}

/// The object with this verdict for its current generation.
pub fn settled<K: Conditioned>(mut object: K, verdict: Verdict) -> K {
    let mut status = object.status().cloned().unwrap_or_default();
    let generation = object.meta().generation;
    conditions::set_verdict(K::conditions_mut(&mut status), generation, verdict);
    *K::observed_generation_mut(&mut status) = generation;
    object.set_status(status);
    object
}

fn path_of<K: Object>(object: &K) -> String {
    let meta = object.meta();
    format!("{}/{}", K::url_path(&(), meta.namespace.as_deref()), meta.name.as_deref().unwrap_or_default())
}

/// `/api/v1/namespaces/a/pods` → `/api/v1/pods`
fn without_namespace(collection: &str) -> String {
    let segments: Vec<&str> = collection.split('/').collect();
    match segments.iter().position(|segment| *segment == "namespaces") {
        Some(at) if at + 2 < segments.len() => [&segments[..at], &segments[at + 2..]].concat().join("/"),
        _ => collection.to_owned(),
    }
}

fn is_collection(path: &str) -> bool {
    let path = without_namespace(path);
    let depth = if path.starts_with("/api/") { 3 } else { 4 };
    path.split('/').count() == depth + 1
}

fn not_found() -> Answer {
    (404, failure(404, "NotFound", "it is not there"))
}

fn failure(code: u16, reason: &str, message: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Status", "status": "Failure", "code": code, "reason": reason, "message": message})
}

fn decode<K: Object>(value: Value) -> K {
    crate::decode::decode(&value.to_string()).expect("the stored object is of this kind")
}

fn merge(target: &mut Value, patch: &Value) {
    match patch {
        Value::Object(patch) => {
            for (key, value) in patch {
                merge(&mut target[key.as_str()], value);
            }
        }
        value => *target = value.clone(),
    }
}

fn prune_nulls(value: &mut Value) {
    if let Value::Object(map) = value {
        map.retain(|_, value| !value.is_null());
        map.values_mut().for_each(prune_nulls);
    }
}
