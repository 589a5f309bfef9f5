//! From a Database object to its identity and its desired state on PostgreSQL. Pure.

use ahoi_api::{Database, DatabaseStatus};
use ahoi_reconcile::Error;
use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt;

use crate::postgres::desired::{Access, Desired, Identity, OtherLogin};
use crate::postgres::names::Names;
use crate::postgres::ownership::Cluster;
use crate::postgres::parameters;
use crate::secret;

/// Connections that a database accepts if its spec sets no limit.
const CONNECTION_LIMIT: i32 = 100;

/// The identity of an object of this cluster.
pub fn identity(database: &Database, cluster: &Cluster) -> Identity {
    let uid = database.uid().unwrap_or_default();
    Identity::new(cluster, database.namespace().unwrap_or_default(), database.name_any(), uid)
}

/// The logins of the database `name`, and the state of the other one, from its status and its binding Secret. The Secret decides
/// which login is in use, because writing it is the one step by which applications change over.
pub fn logins(status: &DatabaseStatus, binding: Option<&Secret>, name: &str) -> (Names, OtherLogin) {
    let known = status.login.as_deref().unwrap_or_default();
    let published = binding.and_then(|binding| secret::text(binding, "username")).unwrap_or_default();
    let names = Names::of(name).used_by(known).used_by(&published);
    let former = status.credentials.as_ref().and_then(|credentials| credentials.previous_login.as_deref());
    // The second case: the process died after it had written the Secret and before it wrote the status.
    let is_former = former == Some(&names.other) || known == names.other;
    (names, if is_former { OtherLogin::Former } else { OtherLogin::Closed })
}

/// The desired state of a database whose names are known.
pub fn desired(
    database: &Database,
    cluster: &Cluster,
    names: Names,
    verifier: &str,
    other: OtherLogin,
    access: Access,
) -> Result<Desired, Error> {
    let spec = &database.spec;
    Ok(Desired {
        names,
        identity: identity(database, cluster),
        // A binding is written only after everything else has existed.
        provisioned: database.status.as_ref().is_some_and(|status| status.binding.is_some()),
        verifier: verifier.to_owned(),
        other,
        connection_limit: spec.connection_limit.unwrap_or(CONNECTION_LIMIT),
        parameters: parameters::check(&spec.parameters)?,
        temporary_kilobytes: temporary_kilobytes(spec.storage.bytes().unwrap_or_default()),
        extensions: spec.extensions.iter().cloned().collect(),
        access,
    })
}

/// A quarter of the storage, which is enough to sort the index of the largest table; at least what an ordinary query needs.
fn temporary_kilobytes(storage: i64) -> i64 {
    const LEAST: i64 = 64 * 1024;
    (storage / 4 / 1024).clamp(LEAST, i64::from(i32::MAX))
}

#[cfg(test)]
mod tests;
