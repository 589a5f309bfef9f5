//! Objects from a list or a watch. They are decoded one by one, so that one that cannot be decoded does not affect others.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use ahoi_api::Object;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::core::DynamicResourceScope;
use kube::{Api, Resource};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use crate::decode::decode;

/// The text of an object, and the metadata that identifies it.
pub(crate) struct Raw<K> {
    head: ObjectMeta,
    text: Box<RawValue>,
    kind: PhantomData<fn() -> K>,
}

/// An object after decoding.
pub(crate) enum Read<K> {
    /// The object.
    Object(K),
    /// The cache does not keep it.
    Ignored,
    /// Why it cannot be decoded.
    Unreadable(String),
}

impl<K: Object> Raw<K> {
    /// Name, namespace, uid, version and controller.
    pub(crate) fn head(&self) -> &ObjectMeta {
        &self.head
    }

    pub(crate) fn into_head(self) -> ObjectMeta {
        self.head
    }

    pub(crate) fn decode(&self) -> Read<K> {
        decode(self.text.get()).map_or_else(Read::Unreadable, Read::Object)
    }

    /// The same requests, without decoding the objects.
    pub(crate) fn api(api: Api<K>) -> Api<Self> {
        match api.namespace().map(ToOwned::to_owned) {
            Some(namespace) => Api::namespaced_with(api.into_client(), &namespace, &()),
            None => Api::all_with(api.into_client(), &()),
        }
    }
}

/// Only metadata that every object has, so that decoding it does not fail.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Document {
    metadata: Head,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct Head {
    name: Option<String>,
    namespace: Option<String>,
    uid: Option<String>,
    resource_version: Option<String>,
    owner_references: Option<Vec<OwnerReference>>,
}

impl<'de, K> Deserialize<'de> for Raw<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Box::<RawValue>::deserialize(deserializer)?;
        let Document { metadata } = serde_json::from_str(text.get()).unwrap_or_default();
        let controllers = |owners: Vec<OwnerReference>| owners.into_iter().filter(|o| o.controller == Some(true));
        let head = ObjectMeta {
            name: metadata.name,
            namespace: metadata.namespace,
            uid: metadata.uid,
            resource_version: metadata.resource_version,
            owner_references: metadata.owner_references.map(|owners| controllers(owners).take(1).collect()),
            ..ObjectMeta::default()
        };
        Ok(Raw { head, text, kind: PhantomData })
    }
}

impl<K> Clone for Raw<K> {
    fn clone(&self) -> Self {
        Raw { head: self.head.clone(), text: self.text.clone(), kind: PhantomData }
    }
}

/// Without the text, which may be a Secret's.
impl<K> fmt::Debug for Raw<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Raw").field("name", &self.head.name).finish_non_exhaustive()
    }
}

impl<K: Resource<DynamicType = ()>> Resource for Raw<K> {
    type DynamicType = ();
    type Scope = DynamicResourceScope;

    fn metadata_api() -> bool {
        K::metadata_api()
    }
    fn kind((): &()) -> Cow<'_, str> {
        K::kind(&())
    }
    fn group((): &()) -> Cow<'_, str> {
        K::group(&())
    }
    fn version((): &()) -> Cow<'_, str> {
        K::version(&())
    }
    fn plural((): &()) -> Cow<'_, str> {
        K::plural(&())
    }
    fn meta(&self) -> &ObjectMeta {
        &self.head
    }
    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.head
    }
}
