//! The pooler's password on each server, in one Secret beside the agents.

use std::collections::BTreeMap;

use ahoi_api::POOLER_AUTH_SECRET;
use ahoi_reconcile::{Error, Platform};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::{ObjectMeta, Patch, PatchParams, PostParams};

use crate::context::Context;
use crate::scram::Credentials;
use crate::secret;

/// The password for `server`, made and kept where there is none. It is never changed here: every agent has it.
pub async fn password(context: &Context, server: &str) -> Result<String, Error> {
    let platform = &context.platform;
    let cached = context.caches.secrets.get_in(platform.namespace(), POOLER_AUTH_SECRET);
    if let Some(password) = cached.as_deref().and_then(|found| secret::text(found, server)) {
        return Ok(password);
    }
    // The cache may be behind our own write, and a second password would lock the agents out that have the first.
    let secrets: Api<Secret> = Api::namespaced(platform.client.clone(), platform.namespace());
    let live = secrets.get_opt(POOLER_AUTH_SECRET).await?;
    if let Some(password) = live.as_ref().and_then(|found| secret::text(found, server)) {
        return Ok(password);
    }
    let Credentials { password, .. } = Credentials::generate()?;
    keep(platform, &secrets, live.is_some(), server, &password).await?;
    Ok(password)
}

async fn keep(
    platform: &Platform,
    secrets: &Api<Secret>,
    exists: bool,
    server: &str,
    password: &str,
) -> Result<(), Error> {
    let data = BTreeMap::from([(server.to_owned(), ByteString(password.as_bytes().to_vec()))]);
    let manager = Some(platform.name().to_owned());
    if exists {
        let params = PatchParams { field_manager: manager, ..PatchParams::default() };
        let patch = Patch::Merge(serde_json::json!({"data": data}));
        secrets.patch(POOLER_AUTH_SECRET, &params, &patch).await?;
    } else {
        let metadata = ObjectMeta { name: Some(POOLER_AUTH_SECRET.to_owned()), ..ObjectMeta::default() };
        let created = Secret { metadata, data: Some(data), ..Secret::default() };
        secrets.create(&PostParams { field_manager: manager, ..PostParams::default() }, &created).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use ahoi_reconcile::testing::ApiServer;

    use super::*;
    use crate::context::tests::{context, secret};

    const PATH: &str = "/api/v1/namespaces/ahoi-system/secrets";

    #[tokio::test]
    async fn made_once_and_then_read() {
        let api = ApiServer::new();
        let blind = context(&api, vec![], vec![], vec![]);
        let first = password(&blind, "pg-1").await.unwrap();
        assert_eq!(api.take_writes(), [format!("POST {PATH}")]);
        // The cache does not know yet.
        assert_eq!(password(&blind, "pg-1").await.unwrap(), first);
        assert_eq!(api.take_writes(), Vec::<String>::new());

        let other = password(&blind, "pg-2").await.unwrap();
        assert_ne!(first, other);
        assert_eq!(api.take_writes(), [format!("PATCH {PATH}/{POOLER_AUTH_SECRET}")]);
        assert_eq!(password(&blind, "pg-1").await.unwrap(), first);
    }

    #[tokio::test]
    async fn costs_no_request_at_rest() {
        let api = ApiServer::new();
        let context = context(&api, vec![], vec![], vec![secret(POOLER_AUTH_SECRET, &[("pg-1", "known")])]);
        assert_eq!(password(&context, "pg-1").await.unwrap(), "known");
        assert_eq!(api.take_requests(), []);
    }
}
