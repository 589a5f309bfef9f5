//! Requests of the controllers, counted in the audit log of the API server.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde::Deserialize;

use crate::system::SYSTEM;

/// Position in the audit log. Requests after it can be counted.
pub struct Audit {
    path: PathBuf,
    from: u64,
}

/// Request of a ServiceAccount of the controllers.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Request {
    /// Verb: get, list, watch, create, update, patch or delete.
    pub verb: String,
    /// User that sent the request.
    pub user: User,
    /// Object of the request.
    #[serde(default)]
    pub object_ref: ObjectRef,
    /// Path with its query.
    #[serde(rename = "requestURI")]
    pub uri: String,
}

/// User that sent the request.
#[derive(Clone, Debug, Deserialize)]
pub struct User {
    /// system:serviceaccount:NAMESPACE:NAME
    pub username: String,
}

/// Object of a request.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct ObjectRef {
    /// API group. Empty: the core group.
    #[serde(default, rename = "apiGroup")]
    pub group: String,
    /// Version of the API group.
    #[serde(default, rename = "apiVersion")]
    pub version: String,
    /// Plural name of the kind.
    #[serde(default)]
    pub resource: String,
    /// Namespace. Empty: a cluster-scoped object.
    #[serde(default)]
    pub namespace: String,
    /// Name. Empty: a list or a create.
    #[serde(default)]
    pub name: String,
    /// Subresource, for example `status`.
    #[serde(default)]
    pub subresource: String,
}

impl Request {
    /// Whether the request writes. Renewals of Leases do not count.
    pub fn is_write(&self) -> bool {
        matches!(self.verb.as_str(), "create" | "update" | "patch" | "delete" | "deletecollection")
            && !matches!(self.object_ref.resource.as_str(), "leases" | "tokenreviews" | "subjectaccessreviews")
    }

    /// Whether the request reads a single object other than a Lease. Lists and watches serve all customers at once.
    pub fn is_single_read(&self) -> bool {
        self.verb == "get" && !self.object_ref.resource.is_empty() && self.object_ref.resource != "leases"
    }

    /// One line for reports: user, verb and object.
    pub fn line(&self) -> String {
        let who = self.user.username.rsplit(':').next().unwrap_or_default();
        let ObjectRef { resource, namespace, name, subresource, .. } = &self.object_ref;
        format!("{who:<22} {:<7} {resource}/{subresource} {namespace}/{name}", self.verb)
    }
}

impl Audit {
    /// Returns the current end of the log.
    pub fn mark() -> Result<Self> {
        let path = PathBuf::from(std::env::var_os("AUDIT_LOG").context("AUDIT_LOG is not set: run e2e/run")?);
        let from = File::open(&path).with_context(|| format!("{}", path.display()))?.metadata()?.len();
        Ok(Self { path, from })
    }

    /// Path of the log.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Offset in the log, in bytes.
    pub fn from(&self) -> u64 {
        self.from
    }

    /// Returns the requests of the controllers since this position.
    pub fn since(&self) -> Result<Vec<Request>> {
        self.since_of(SYSTEM)
    }

    /// Returns the requests of the ServiceAccounts of `namespace` since this position.
    pub fn since_of(&self, namespace: &str) -> Result<Vec<Request>> {
        let mut file = File::open(&self.path)?;
        file.seek(SeekFrom::Start(self.from))?;
        let accounts = format!("system:serviceaccount:{namespace}:");
        let mut requests = Vec::new();
        for line in BufReader::new(file).lines() {
            // The last line may be incomplete. A later count includes it.
            let Ok(request) = serde_json::from_str::<Request>(&line?) else { continue };
            if request.user.username.starts_with(&accounts) {
                requests.push(request);
            }
        }
        Ok(requests)
    }
}

/// Formats the requests as a table of counts.
pub fn table(requests: &[Request]) -> String {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for request in requests {
        *counts.entry(request.line()).or_default() += 1;
    }
    counts.iter().map(|(line, n)| format!("{n:>4}  {line}\n")).collect()
}
