//! The verifiers of logins that the poolers cannot look up, in Secrets beside the agents.
//!
//! An entry is written before anybody is given the password that goes with it, and taken away after the login is closed.

use std::collections::BTreeMap;

use ahoi_reconcile::Error;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::{ObjectMeta, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use crate::context::Context;
use crate::postgres::names::Names;
use crate::secret;

/// A Secret holds 1 MiB (<https://kubernetes.io/docs/concepts/configuration/secret/#restriction-data-size>).
const FULL: usize = 1_000_000;

/// Whether the agents are told this verifier, as far as the cache knows.
pub fn has(context: &Context, login: &str, verifier: &str) -> bool {
    let found = context.caches.secrets.get_in(context.platform.namespace(), &secret_of(login));
    found.and_then(|found| secret::text(&found, login)).as_deref() == Some(verifier)
}

/// Whether the agents know a verifier of this database's logins. pgbouncer never looks up a login that it has known from a file,
/// so these are kept up to date also when the server begins to let passwords be looked up.
pub fn are_known(context: &Context, database: &str) -> bool {
    let found = context.caches.secrets.get_in(context.platform.namespace(), &ahoi_api::verifier_secret(database));
    let prefix = format!("{database}_");
    found.is_some_and(|found| found.data.iter().flatten().any(|(login, _)| login.starts_with(&prefix)))
}

/// Tells the agents the verifier of a login.
pub async fn keep(context: &Context, login: &str, verifier: &str) -> Result<(), Error> {
    if has(context, login, verifier) {
        return Ok(());
    }
    let name = secret_of(login);
    let present = context.caches.secrets.get_in(context.platform.namespace(), &name);
    let size: usize = present.iter().flat_map(|secret| &secret.data).flatten().map(|(_, value)| value.0.len()).sum();
    if size + verifier.len() > FULL {
        return Err(Error::structural(
            "VerifiersFull",
            format!(
                "the Secret {}/{name} has no room for another login; place databases on servers whose admin role may read \
                 pg_authid",
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
    // Somebody else may have been first; the next pass finds it.
    secrets(context).create(&params, &created).await?;
    Ok(())
}

/// Takes every login of a database away.
pub async fn forget(context: &Context, names: &Names) -> Result<(), Error> {
    let name = ahoi_api::verifier_secret(&names.database);
    let Some(present) = context.caches.secrets.get_in(context.platform.namespace(), &name) else { return Ok(()) };
    let prefix = format!("{}_", names.database);
    let logins = present.data.iter().flatten().map(|(login, _)| login).filter(|login| login.starts_with(&prefix));
    let gone: serde_json::Map<String, Value> = logins.map(|login| (login.clone(), Value::Null)).collect();
    if !gone.is_empty() {
        patch(context, &name, Value::Object(gone)).await?;
    }
    Ok(())
}

/// Whether there was a Secret to patch.
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
mod tests {
    use ahoi_reconcile::testing::ApiServer;

    use super::*;
    use crate::context::tests::{context, secret};

    const PATH: &str = "/api/v1/namespaces/ahoi-system/secrets";

    #[tokio::test]
    async fn told_once_and_forgotten() {
        let api = ApiServer::new();
        let blind = context(&api, vec![], vec![], vec![]);
        keep(&blind, "c_0123456789ab_a", "v").await.unwrap();
        let name = "ahoi-verifiers-3";
        assert_eq!(api.take_writes(), [format!("PATCH {PATH}/{name}"), format!("POST {PATH}")]);
        // The cache does not know yet.
        keep(&blind, "c_ba9876543213_a", "w").await.unwrap();
        assert_eq!(api.take_writes(), [format!("PATCH {PATH}/{name}")]);

        let data = [("c_0123456789ab_a", "v"), ("c_0123456789ab_b", "v"), ("c_ba9876543213_a", "w")];
        let knowing = context(&api, vec![], vec![], vec![secret(name, &data)]);
        keep(&knowing, "c_0123456789ab_a", "v").await.unwrap();
        forget(&knowing, &Names::of("c_00000000000b")).await.unwrap();
        assert_eq!(api.take_requests(), [], "nothing at rest");
        assert!(!has(&knowing, "c_0123456789ab_a", "another"));
        assert!(are_known(&knowing, "c_0123456789ab") && !are_known(&knowing, "c_00000000000b"));
        forget(&knowing, &Names::of("c_0123456789ab")).await.unwrap();
        assert_eq!(api.take_writes(), [format!("PATCH {PATH}/{name}")]);
    }

    #[tokio::test]
    async fn a_full_secret_says_so() {
        let api = ApiServer::new();
        let full = secret("ahoi-verifiers-3", &[("c_ba9876543213_a", &"x".repeat(FULL))]);
        let context = context(&api, vec![], vec![], vec![full]);
        let error = keep(&context, "c_0123456789ab_a", "v").await.unwrap_err();
        assert_eq!(error.reason(), "VerifiersFull");
        assert_eq!(api.take_requests(), []);
    }
}
