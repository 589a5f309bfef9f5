//! The stamp: whose a database is, written in its comment.
//!
//! Everybody who may connect to a server may read the comments of all its databases. A stamp therefore
//! names no customer: what it says about the object is a hash that only somebody who knows the cluster's own uid can make.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// The cluster this controller works for, known by the uid of its namespace kube-system.
#[derive(Clone, Debug)]
pub struct Cluster {
    uid: String,
    /// What stamps say about the cluster.
    pub id: String,
}

impl Cluster {
    /// The cluster whose kube-system has this uid.
    pub fn new(uid: impl Into<String>) -> Self {
        let uid = uid.into();
        Cluster { id: digest(&[&uid], 8), uid }
    }

    /// What stamps say about a Database of this name, whatever its uid: by this a retained database is found again.
    pub fn object(&self, namespace: &str, name: &str) -> String {
        digest(&[&self.uid, namespace, name], 16)
    }
}

/// Hexadecimal digits that say nothing about the parts.
fn digest(parts: &[&str], bytes: usize) -> String {
    let mut sha = Sha256::new();
    for part in parts {
        sha.update(part);
        sha.update([0]);
    }
    sha.finalize().iter().take(bytes).map(|byte| format!("{byte:02x}")).collect()
}

/// Where a database is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Being made, or in use.
    Active,
    /// Its object is gone and its login closed; an object of the same name finds it again.
    Retained,
    /// Renamed aside; nothing finds it by itself.
    Archived,
    /// Its object was deleted with the policy Delete and the drop is pending: an object of the same name does not get it.
    Deleting,
}

impl State {
    /// Whether a new object of the same name takes the database over.
    pub fn can_be_adopted(self) -> bool {
        matches!(self, State::Active | State::Retained)
    }
}

/// Whose a database is and what has been done in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    /// [`Cluster::id`].
    pub cluster: String,
    /// [`Cluster::object`].
    pub object: String,
    /// The uid of the Database.
    pub uid: String,
    /// Where it is in its life.
    pub state: State,
    /// The extensions made in it; none while what is inside has not been prepared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extensions: Option<BTreeSet<String>>,
    /// Whether a release before this one has frozen it, in a way of its own. Read, and never written.
    #[serde(default, skip_serializing)]
    pub frozen: bool,
    /// Whether writes are refused in it because its storage is used up.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub full: bool,
}

#[derive(Serialize, Deserialize)]
struct Comment<S> {
    ahoi: S,
}

impl Stamp {
    /// The comment to put on the database. The same stamp makes the same text.
    pub fn comment(&self) -> String {
        // A structure of strings always has a JSON form.
        serde_json::to_string(&Comment { ahoi: self }).unwrap_or_default()
    }

    /// Reads a comment; none if it is not one of ours.
    pub fn parse(comment: &str) -> Option<Self> {
        serde_json::from_str::<Comment<Stamp>>(comment).ok().map(|comment| comment.ahoi)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn stamp() -> Stamp {
        let cluster = Cluster::new("0b2a7c1e-1d3c-4f7e-9a51-1b1f6f1f0c11");
        Stamp {
            object: cluster.object("customer-acme", "acme"),
            cluster: cluster.id,
            uid: "3f2504e0-4f89-41d3-9a0c-0305e82c3301".into(),
            state: State::Active,
            extensions: Some(["pgcrypto".to_owned()].into()),
            frozen: false,
            full: false,
        }
    }

    #[test]
    fn text() {
        insta::assert_snapshot!(stamp().comment());
    }

    #[test]
    fn there_and_back() {
        let comment = stamp().comment();
        // What the sweep's query looks for.
        assert!(comment.starts_with(r#"{"ahoi":"#));
        assert_eq!(Stamp::parse(&comment), Some(stamp()));
    }

    #[test]
    fn names_no_customer() {
        assert!(!stamp().comment().contains("acme"));
    }

    #[test]
    fn another_cluster_makes_another_hash() {
        assert_ne!(Cluster::new("a").object("n", "m"), Cluster::new("b").object("n", "m"));
        assert_ne!(Cluster::new("a").object("n", "m"), Cluster::new("a").object("nm", ""));
    }

    proptest! {
        #[test]
        fn others_comments_are_not_ours(comment in ".{0,200}") {
            prop_assert_eq!(Stamp::parse(&comment), None);
        }
    }
}
