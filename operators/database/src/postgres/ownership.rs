//! The ownership marker: which object a database belongs to, stored in the comment of the database.
//!
//! Every login of a server may read the comments of all its databases. The marker therefore names no customer: it identifies the
//! object by a hash that only a process which knows the uid of the cluster can compute.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// The Kubernetes cluster of this controller, identified by the uid of its namespace kube-system.
#[derive(Clone, Debug)]
pub struct Cluster {
    uid: String,
    /// Identifies the cluster in ownership markers.
    pub id: String,
}

impl Cluster {
    /// The cluster whose namespace kube-system has this uid.
    pub fn new(uid: impl Into<String>) -> Self {
        let uid = uid.into();
        Cluster { id: digest(&[&uid], 8), uid }
    }

    /// Identifies Databases of this name in ownership markers, whatever their uid: an object of the same name finds a retained
    /// database by it.
    pub fn object(&self, namespace: &str, name: &str) -> String {
        digest(&[&self.uid, namespace, name], 16)
    }
}

/// Hexadecimal digits of a hash.
fn digest(parts: &[&str], bytes: usize) -> String {
    let mut sha = Sha256::new();
    for part in parts {
        sha.update(part);
        sha.update([0]);
    }
    sha.finalize().iter().take(bytes).map(|byte| format!("{byte:02x}")).collect()
}

/// Lifecycle state of a database.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Being created, or in use.
    Active,
    /// Its object was deleted and its logins are closed; an object of the same name adopts it.
    Retained,
    /// Archived under another name; no object adopts it.
    Archived,
    /// Its object was deleted with the policy Delete, and the drop is pending; no object adopts it.
    Deleting,
}

impl State {
    /// Whether a new object of the same name adopts the database.
    pub fn can_be_adopted(self) -> bool {
        matches!(self, State::Active | State::Retained)
    }
}

/// Which object a database belongs to, and what has been done in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ownership {
    /// [`Cluster::id`].
    pub cluster: String,
    /// [`Cluster::object`].
    pub object: String,
    /// The uid of the Database.
    pub uid: String,
    /// Lifecycle state.
    pub state: State,
    /// The extensions that were created in it; none until its contents have been prepared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extensions: Option<BTreeSet<String>>,
    /// Whether an earlier release has frozen it, in another way. Never written.
    #[serde(default, skip_serializing)]
    pub frozen: bool,
    /// Whether writes are refused because its storage is used up.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub full: bool,
}

#[derive(Serialize, Deserialize)]
struct Comment<S> {
    ahoi: S,
}

impl Ownership {
    /// The comment on the database; always the same text for the same marker.
    pub fn comment(&self) -> String {
        // Serializing strings does not fail.
        serde_json::to_string(&Comment { ahoi: self }).unwrap_or_default()
    }

    /// Parses a comment; none if it is not an ownership marker.
    pub fn parse(comment: &str) -> Option<Self> {
        serde_json::from_str::<Comment<Ownership>>(comment).ok().map(|comment| comment.ahoi)
    }
}

#[cfg(test)]
mod tests;
