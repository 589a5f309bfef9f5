//! What the controllers asked of the API server, counted from its audit log.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde::Deserialize;

use crate::system::SYSTEM;

/// A place in the audit log; what was asked after it can be counted.
pub struct Audit {
    path: PathBuf,
    from: u64,
}

/// One request of a service account of the suite.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Request {
    /// get, list, watch, create, update, patch, delete.
    pub verb: String,
    /// Who asked.
    pub user: User,
    /// What for.
    #[serde(default)]
    pub object_ref: ObjectRef,
    /// The path, with its query.
    #[serde(rename = "requestURI")]
    pub uri: String,
}

/// Who asked.
#[derive(Clone, Debug, Deserialize)]
pub struct User {
    /// system:serviceaccount:NAMESPACE:NAME
    pub username: String,
}

/// What was asked for.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct ObjectRef {
    /// API group, empty for Kubernetes' core.
    #[serde(default, rename = "apiGroup")]
    pub group: String,
    /// Version of the API group.
    #[serde(default, rename = "apiVersion")]
    pub version: String,
    /// Plural of the kind.
    #[serde(default)]
    pub resource: String,
    /// Namespace, empty for cluster-scoped objects.
    #[serde(default)]
    pub namespace: String,
    /// Name, empty for lists and creates.
    #[serde(default)]
    pub name: String,
    /// status and the like.
    #[serde(default)]
    pub subresource: String,
}

impl Request {
    /// Whether it changes something; renewals of Leases do not count.
    pub fn is_write(&self) -> bool {
        matches!(self.verb.as_str(), "create" | "update" | "patch" | "delete" | "deletecollection")
            && !matches!(self.object_ref.resource.as_str(), "leases" | "tokenreviews" | "subjectaccessreviews")
    }

    /// Whether it reads one object, Leases aside; lists and watches serve all customers at once.
    pub fn is_single_read(&self) -> bool {
        self.verb == "get" && !self.object_ref.resource.is_empty() && self.object_ref.resource != "leases"
    }

    /// For reports: who, what and where.
    pub fn line(&self) -> String {
        let who = self.user.username.rsplit(':').next().unwrap_or_default();
        let ObjectRef { resource, namespace, name, subresource, .. } = &self.object_ref;
        format!("{who:<22} {:<7} {resource}/{subresource} {namespace}/{name}", self.verb)
    }
}

impl Audit {
    /// Here and now.
    pub fn mark() -> Result<Self> {
        let path = PathBuf::from(std::env::var_os("AUDIT_LOG").context("AUDIT_LOG is not set: run e2e/run")?);
        let from = File::open(&path).with_context(|| format!("{}", path.display()))?.metadata()?.len();
        Ok(Self { path, from })
    }

    /// The log.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where in the log this place is, in bytes.
    pub fn from(&self) -> u64 {
        self.from
    }

    /// What the suite's service accounts have asked since.
    pub fn since(&self) -> Result<Vec<Request>> {
        self.since_of(SYSTEM)
    }

    /// What the service accounts of `namespace` have asked since.
    pub fn since_of(&self, namespace: &str) -> Result<Vec<Request>> {
        let mut file = File::open(&self.path)?;
        file.seek(SeekFrom::Start(self.from))?;
        let accounts = format!("system:serviceaccount:{namespace}:");
        let mut requests = Vec::new();
        for line in BufReader::new(file).lines() {
            // The last line may be half written; it belongs to a later count.
            let Ok(request) = serde_json::from_str::<Request>(&line?) else { continue };
            if request.user.username.starts_with(&accounts) {
                requests.push(request);
            }
        }
        Ok(requests)
    }
}

/// How many requests of each line there are, for a report that a reader can add up.
pub fn table(requests: &[Request]) -> String {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for request in requests {
        *counts.entry(request.line()).or_default() += 1;
    }
    counts.iter().map(|(line, n)| format!("{n:>4}  {line}\n")).collect()
}
