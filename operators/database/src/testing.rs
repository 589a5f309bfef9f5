//! Fixtures of the tests.

use ahoi_api::{Database, DatabaseServer};
use ahoi_reconcile::testing::{ApiServer, cache};
use ahoi_reconcile::{Controller, Owned, Platform};
use k8s_openapi::api::core::v1::Secret;

use crate::caches::Caches;
use crate::context::Context;
use crate::memory::Memories;
use crate::metrics::Metrics;
use crate::outage::Outages;
use crate::placement::Placements;
use crate::postgres::ownership::Cluster;
use crate::postgres::server::PostgresServers;
use crate::remembered::Remembered;

/// Caches with these objects.
pub fn caches(
    platform: &Platform,
    servers: Vec<DatabaseServer>,
    databases: Vec<Database>,
    secrets: Vec<Secret>,
) -> Caches {
    Caches {
        servers: cache(servers),
        databases: cache(databases),
        fleets: cache([]),
        connection_pools: cache([]),
        bindings: Owned::new(platform, &cache([])),
        secrets: cache(secrets),
    }
}

/// A context with these objects in its caches.
pub fn context(
    api: &ApiServer,
    servers: Vec<DatabaseServer>,
    databases: Vec<Database>,
    secrets: Vec<Secret>,
) -> Context {
    let platform = api.platform();
    let caches = caches(&platform, servers, databases, secrets);
    Context {
        cluster: Cluster::new("cluster"),
        metrics: Metrics::new(&platform, 20),
        servers: PostgresServers::new(false),
        memories: Memories::default(),
        outages: Outages::default(),
        removals: tokio::sync::Mutex::default(),
        remembered: Remembered::default(),
        placements: Placements::default(),
        trigger: Controller::new(&platform, &caches.databases).trigger(),
        caches,
        platform,
    }
}

/// The Database `acme` of a customer, on the server `pg-1`.
pub fn database() -> Database {
    serde_saphyr::from_str(
        "
        apiVersion: internal.example.com/v1
        kind: Database
        metadata: {name: acme, namespace: customer-acme, uid: u, generation: 1}
        spec: {storage: 1gb}
        status: {server: pg-1, databaseName: c_3f2504e04f89}
        ",
    )
    .unwrap()
}

/// The admin Secret of [`server`].
pub fn admin() -> Secret {
    secret("admin", &[("username", "postgres"), ("password", "x")])
}

/// A DatabaseServer.
pub fn server(name: &str) -> DatabaseServer {
    serde_saphyr::from_str(&format!(
        "
        apiVersion: internal.example.com/v1
        kind: DatabaseServer
        metadata: {{name: {name}, uid: 11111111-2222-4333-8444-555555555555, generation: 1}}
        spec: {{host: db.example.com, adminSecretRef: {{namespace: ahoi-system, name: admin}}}}
        "
    ))
    .unwrap()
}

/// A Secret in the namespace of the controllers.
pub fn secret(name: &str, data: &[(&str, &str)]) -> Secret {
    let text = |(key, value): &(&str, &str)| (key.to_string(), k8s_openapi::ByteString(value.as_bytes().to_vec()));
    let mut secret = Secret { data: Some(data.iter().map(text).collect()), ..Secret::default() };
    secret.metadata.name = Some(name.to_owned());
    secret.metadata.namespace = Some("ahoi-system".to_owned());
    secret
}
