//! The Secret with the poolers' login on each server, which the agents read.

use std::collections::BTreeMap;

use ahoi_api::{ConnectionPool, Database, POOLER_AUTH_SECRET, PoolerLogin};
use ahoi_reconcile::Error;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::{ObjectMeta, Patch, PatchParams, PostParams};

use crate::context::Context;

/// The published login for `server`, if it is one of `names`.
pub async fn published(context: &Context, server: &str, names: &[String; 2]) -> Result<Option<PoolerLogin>, Error> {
    let find = |secret: &Secret| {
        let login = PoolerLogin::parse(&secret.data.as_ref()?.get(server)?.0)?;
        // The logins of a deleted server of the same name differ.
        names.contains(&login.name).then_some(login)
    };
    let platform = &context.platform;
    let cached = context.caches.secrets.get_in(platform.namespace(), POOLER_AUTH_SECRET);
    if let Some(login) = cached.as_deref().and_then(find) {
        return Ok(Some(login));
    }
    // The cache may not have our own write yet, and a second password would lock out agents that have the first.
    Ok(secrets(context).get_opt(POOLER_AUTH_SECRET).await?.as_ref().and_then(find))
}

/// Publishes the login for `server`.
pub async fn publish(context: &Context, server: &str, login: &PoolerLogin) -> Result<(), Error> {
    let data = BTreeMap::from([(server.to_owned(), ByteString(login.entry()))]);
    let (secrets, manager) = (secrets(context), Some(context.platform.name().to_owned()));
    let params = PatchParams { field_manager: manager.clone(), ..PatchParams::default() };
    let patch = Patch::Merge(serde_json::json!({"data": data}));
    match secrets.patch(POOLER_AUTH_SECRET, &params, &patch).await {
        Err(kube::Error::Api(answer)) if answer.code == 404 => {}
        outcome => return Ok(outcome.map(drop)?),
    }
    let metadata = ObjectMeta { name: Some(POOLER_AUTH_SECRET.to_owned()), ..ObjectMeta::default() };
    let created = Secret { metadata, data: Some(data), ..Secret::default() };
    secrets.create(&PostParams { field_manager: manager, ..PostParams::default() }, &created).await?;
    Ok(())
}

/// Removes the logins for deleted DatabaseServers. Those that a Database or a route still refers to stay: their clients are served
/// until the DatabaseServer is created again.
pub async fn prune(context: &Context) -> Result<(), Error> {
    let caches = &context.caches;
    let Some(present) = caches.secrets.get_in(context.platform.namespace(), POOLER_AUTH_SECRET) else { return Ok(()) };
    let is_there =
        |server: &str| caches.servers.get(server).is_some_and(|server| server.metadata.deletion_timestamp.is_none());
    let is_obsolete = |server: &&String| !is_there(server) && !is_named(context, server);
    let obsolete: Vec<_> = present.data.iter().flat_map(|data| data.keys()).filter(is_obsolete).collect();
    if obsolete.is_empty() {
        return Ok(());
    }
    let nulls: serde_json::Map<_, _> =
        obsolete.into_iter().map(|server| (server.clone(), serde_json::Value::Null)).collect();
    let params = PatchParams { field_manager: Some(context.platform.name().to_owned()), ..PatchParams::default() };
    secrets(context).patch(POOLER_AUTH_SECRET, &params, &Patch::Merge(serde_json::json!({"data": nulls}))).await?;
    Ok(())
}

fn is_named(context: &Context, server: &str) -> bool {
    let of_database = |database: &Database| database.status.as_ref().and_then(|status| status.server.clone());
    let of_pool = |pool: &ConnectionPool| pool.status.as_ref()?.route.as_ref().map(|route| route.server.clone());
    let databases = context.caches.databases.select(|database| of_database(database).filter(|name| name == server));
    !databases.is_empty()
        || !context.caches.connection_pools.select(|pool| of_pool(pool).filter(|name| name == server)).is_empty()
}

fn secrets(context: &Context) -> Api<Secret> {
    Api::namespaced(context.platform.client.clone(), context.platform.namespace())
}

#[cfg(test)]
mod tests;
