//! How a cache keeps an object.

use std::sync::Arc;

use ahoi_api::Object;

/// An object, decoded or as text.
///
/// The types of Kubernetes have hundreds of fields, of which an object sets ten, and a tree node for each map of labels. With 500
/// customers, the controllers had 109 kB for each with decoded objects, and 48 kB with texts. Decoding takes time, which does not
/// matter to a reconcile that reads a few objects.
pub(super) enum Body<K> {
    Open(Arc<K>),
    Packed(Box<[u8]>),
}

impl<K: Object> Body<K> {
    /// As text; decoded, if it cannot be serialized.
    pub(super) fn pack(object: &Arc<K>) -> Self {
        match serde_json::to_vec(&**object) {
            Ok(text) => Body::Packed(text.into_boxed_slice()),
            Err(_) => Body::Open(object.clone()),
        }
    }

    /// The object.
    ///
    /// # Panics
    ///
    /// If the kind cannot decode what it serialized. Such a kind could not be written to the API server either.
    pub(super) fn open(&self) -> Arc<K> {
        match self {
            Body::Open(object) => object.clone(),
            Body::Packed(text) => match serde_json::from_slice(text) {
                Ok(object) => Arc::new(object),
                Err(error) => panic!("a {} cannot read its own text: {error}", K::kind(&())),
            },
        }
    }
}
