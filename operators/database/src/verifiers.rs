//! The Secrets with the verifiers of logins that poolers cannot look up.
//!
//! An entry is written before the password is published, and removed after the login is closed.

use std::collections::BTreeMap;

use ahoi_api::Reason;
use ahoi_reconcile::Error;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::{ObjectMeta, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use crate::context::Context;
use crate::postgres::names::Names;
use crate::secret;

/// Maximum size of the entries; a Secret holds 1 MiB (<https://kubernetes.io/docs/concepts/configuration/secret/#restriction-data-size>).
const FULL: usize = 1_000_000;

/// Whether the agents have this verifier, according to the cache.
pub fn has(context: &Context, login: &str, verifier: &str) -> bool {
    let found = context.caches.secrets.get_in(context.platform.namespace(), &secret_of(login));
    found.and_then(|found| secret::text(&found, login)).as_deref() == Some(verifier)
}

/// Whether the agents have a verifier of a login of this database. pgbouncer never looks up a login that its file contained once,
/// so these entries are updated even after the admin role may read verifiers.
pub fn are_known(context: &Context, database: &str) -> bool {
    let found = context.caches.secrets.get_in(context.platform.namespace(), &ahoi_api::verifier_secret(database));
    let prefix = format!("{database}_");
    found.is_some_and(|found| found.data.iter().flatten().any(|(login, _)| login.starts_with(&prefix)))
}

/// Publishes the verifier of a login to the agents.
pub async fn keep(context: &Context, login: &str, verifier: &str) -> Result<(), Error> {
    if has(context, login, verifier) {
        return Ok(());
    }
    let name = secret_of(login);
    let present = context.caches.secrets.get_in(context.platform.namespace(), &name);
    let others = present.iter().flat_map(|secret| &secret.data).flatten().filter(|(other, _)| *other != login);
    let size: usize = others.map(|(_, value)| value.0.len()).sum();
    if size + verifier.len() > FULL {
        return Err(Error::structural(
            Reason::VerifiersFull,
            format!(
                "Secret {}/{name} is full, and the poolers need an entry for login {login}: let the admin role of its \
                 DatabaseServer read passwords (`GRANT SELECT ON pg_authid TO` it in its admin database), so that the poolers \
                 look them up",
                context.platform.namespace()
            ),
        ));
    }
    let value = ByteString(verifier.as_bytes().to_vec());
    if patch(context, &name, json!({ login: value })).await? {
        return Ok(());
    }
    let created = Secret {
        metadata: ObjectMeta { name: Some(name), ..ObjectMeta::default() },
        data: Some(BTreeMap::from([(login.to_owned(), value)])),
        ..Secret::default()
    };
    let params = PostParams { field_manager: Some(context.platform.name().to_owned()), ..PostParams::default() };
    // If another process created it meanwhile, the next reconcile finds it.
    secrets(context).create(&params, &created).await?;
    Ok(())
}

/// Removes every login of a database.
pub async fn forget(context: &Context, names: &Names) -> Result<(), Error> {
    let name = ahoi_api::verifier_secret(&names.database);
    let Some(present) = context.caches.secrets.get_in(context.platform.namespace(), &name) else { return Ok(()) };
    let prefix = format!("{}_", names.database);
    let logins = present.data.iter().flatten().map(|(login, _)| login).filter(|login| login.starts_with(&prefix));
    let removed: serde_json::Map<String, Value> = logins.map(|login| (login.clone(), Value::Null)).collect();
    if !removed.is_empty() {
        patch(context, &name, Value::Object(removed)).await?;
    }
    Ok(())
}

/// Patches a Secret; false if it does not exist.
async fn patch(context: &Context, name: &str, data: Value) -> Result<bool, Error> {
    let params = PatchParams { field_manager: Some(context.platform.name().to_owned()), ..PatchParams::default() };
    match secrets(context).patch(name, &params, &Patch::Merge(json!({ "data": data }))).await {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn secrets(context: &Context) -> Api<Secret> {
    Api::namespaced(context.platform.client.clone(), context.platform.namespace())
}

fn secret_of(login: &str) -> String {
    ahoi_api::verifier_secret(login.rsplit_once('_').map_or(login, |(database, _)| database))
}

#[cfg(test)]
mod tests;
