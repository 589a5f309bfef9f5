//! The route and the Secret of a pool; pure.

use std::collections::BTreeMap;

use ahoi_api::binding::{self, BindingData};
use ahoi_api::{BINDING_LABEL, BINDING_SECRET_TYPE, CUSTOMER_LABEL, ConnectionPool, Passwords, Place, Route};
use ahoi_pgbouncer::{PORT, fleet};
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt;
use sha2::{Digest, Sha256};

use super::dereference::Inputs;
use super::tls;

/// What a pool is to become.
pub struct Desired {
    /// The shard that serves it.
    pub place: Place,
    pub route: Route,
    pub secret: Secret,
}

/// The route and the Secret of a pool that `place` serves.
pub fn desired(pool: &ConnectionPool, inputs: &Inputs, place: Place) -> Desired {
    let secret = secret(pool, inputs, &place);
    Desired { route: route(pool, inputs), secret, place }
}

fn route(pool: &ConnectionPool, inputs: &Inputs) -> Route {
    let fleet = &inputs.fleet.spec;
    Route {
        server: inputs.server.name_any(),
        host: inputs.server.spec.host.clone(),
        port: inputs.server.spec.port,
        database: inputs.database.clone(),
        auth_database: inputs.server.spec.admin_database.clone(),
        passwords: inputs.passwords(),
        login: (inputs.passwords() == Passwords::File).then(|| inputs.credentials.username.clone()),
        pool_mode: pool.spec.pool_mode.unwrap_or(fleet.pool_mode),
        pool_size: pool.spec.pool_size.unwrap_or(fleet.default_pool_size),
        max_client_connections: pool.spec.max_client_connections,
        query_timeout_seconds: pool.spec.query_timeout_seconds,
        idle_transaction_timeout_seconds: pool.spec.idle_transaction_timeout_seconds,
        reconnect_request: pool.spec.reconnect_request.clone(),
        migration: pool.spec.migration.clone(),
        state: pool.spec.state,
        // Known when the Secret has been published.
        retiring: None,
    }
}

/// Suffix of the name of a pool's Secret.
pub const SECRET_SUFFIX: &str = "-pool";

/// The name of the pool's Secret.
pub fn secret_name(pool: &ConnectionPool) -> String {
    format!("{}{SECRET_SUFFIX}", pool.name_any())
}

/// The Secret that an application mounts: its login, and the address of its shard.
fn secret(pool: &ConnectionPool, inputs: &Inputs, place: &Place) -> Secret {
    let host = fleet::host(&place.fleet.namespace, &fleet::shard(&place.fleet.name, place.shard));
    let data = BindingData {
        host,
        port: PORT.into(),
        database: inputs.database.clone(),
        username: inputs.credentials.username.clone(),
        password: inputs.credentials.password.clone(),
        ..BindingData::default()
    };
    let data = tls::secured(data, inputs.fleet.spec.tls.client.mode, &inputs.certificates);
    let mut labels = BTreeMap::from([(BINDING_LABEL.to_owned(), "pooled".to_owned())]);
    if let Some(customer) = pool.labels().get(CUSTOMER_LABEL) {
        labels.insert(CUSTOMER_LABEL.to_owned(), customer.clone());
    }
    Secret {
        metadata: ObjectMeta {
            name: Some(secret_name(pool)),
            namespace: pool.namespace(),
            labels: Some(labels),
            ..ObjectMeta::default()
        },
        type_: Some(BINDING_SECRET_TYPE.to_owned()),
        data: Some(data.encode()),
        ..Secret::default()
    }
}

/// Whether the API server would refuse to change the Secret into the desired one.
pub fn must_be_recreated(live: &Secret, desired: &Secret) -> bool {
    live.immutable == Some(true) || live.type_ != desired.type_
}

/// Whether both contain the same login.
pub fn same_login(one: &Secret, other: &Secret) -> bool {
    let login = |secret: &Secret| ["username", "password"].map(|key| text(secret, key));
    login(one) == login(other)
}

/// The value of a key, if it is text.
pub fn text(secret: &Secret, key: &str) -> Option<String> {
    binding::text(secret.data.as_ref()?, key)
}

/// Whether both point to the same shard of the same fleet.
pub fn same_host(one: &Secret, other: &Secret) -> bool {
    let host = |secret: &Secret| secret.data.as_ref().and_then(|data| data.get("host").cloned());
    host(one) == host(other)
}

/// A hash of the content. It discloses nothing: the passwords are generated.
pub fn version_of(secret: &Secret) -> String {
    let mut digest = Sha256::new();
    for (name, value) in secret.data.iter().flatten() {
        for part in [name.as_bytes(), &value.0] {
            digest.update(part.len().to_be_bytes());
            digest.update(part);
        }
    }
    digest.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::pool::dereference::Credentials;
    use ahoi_api::{
        ConnectionPoolSpec, DatabaseServer, DatabaseServerStatus, LocalRef, NamespacedRef, PgBouncer, PgBouncerSpec,
        PoolMode, PoolState,
    };
    use ahoi_pgbouncer::certificates::Material;

    fn pool() -> ConnectionPool {
        let spec = ConnectionPoolSpec {
            database_ref: LocalRef { name: "big-client".into() },
            pg_bouncer_ref: NamespacedRef { namespace: "ahoi-system".into(), name: "global".into() },
            pool_mode: None,
            pool_size: None,
            max_client_connections: Some(400),
            query_timeout_seconds: Some(30),
            idle_transaction_timeout_seconds: None,
            reconnect_request: None,
            migration: None,
            state: PoolState::Active,
        };
        let mut pool = ConnectionPool::new("big-client", spec);
        pool.metadata.namespace = Some("customer-big-client".into());
        pool.metadata.labels = Some([(CUSTOMER_LABEL.to_owned(), "big-client".to_owned())].into());
        pool
    }

    fn inputs() -> Inputs {
        let spec = PgBouncerSpec { default_pool_size: 8, ..PgBouncerSpec::default() };
        let mut fleet = PgBouncer::new("global", spec);
        fleet.metadata.namespace = Some("ahoi-system".into());
        let server = serde_json::from_value(serde_json::json!({
"host": "pg-1.databases.svc", "port": 5433, "adminSecretRef": {"namespace": "ahoi-system", "name": "pg-1"}}))
        .unwrap();
        Inputs {
            fleet: Arc::new(fleet),
            server: Arc::new(DatabaseServer::new("pg-1", server)),
            database: "c_ab12".into(),
            previous_login: None,
            credentials: Credentials { username: "c_ab12_a".into(), password: "p@ss/w:rd".into() },
            certificates: Material::default(),
        }
    }

    fn place(shard: i32) -> Place {
        Place { fleet: NamespacedRef { namespace: "ahoi-system".into(), name: "global".into() }, shard }
    }

    #[test]
    fn the_route() {
        insta::assert_yaml_snapshot!(route(&pool(), &inputs()));
    }

    #[test]
    fn with_file_passwords_the_route_contains_the_login() {
        let mut inputs = inputs();
        let mut server = DatabaseServer::clone(&inputs.server);
        server.status = Some(DatabaseServerStatus { passwords: Some(Passwords::File), ..Default::default() });
        inputs.server = Arc::new(server);
        let route = route(&pool(), &inputs);
        assert_eq!((route.passwords, route.login.as_deref()), (Passwords::File, Some("c_ab12_a")));
    }

    #[test]
    fn settings_of_the_pool_override_those_of_the_fleet() {
        let mut pool = pool();
        pool.spec.pool_mode = Some(PoolMode::Session);
        pool.spec.pool_size = Some(3);
        pool.spec.state = PoolState::Paused;
        let route = route(&pool, &inputs());
        assert_eq!((route.pool_mode, route.pool_size, route.state), (PoolMode::Session, 3, PoolState::Paused));
    }

    #[test]
    fn the_secret() {
        let elsewhere = secret(&pool(), &inputs(), &place(2));
        assert_eq!(elsewhere.data.as_ref().unwrap()["host"].0, b"global-s2.ahoi-system.svc");
        let secret = secret(&pool(), &inputs(), &place(0));
        let text: BTreeMap<&String, &str> = secret
            .data
            .as_ref()
            .unwrap()
            .iter()
            .map(|(name, value)| (name, std::str::from_utf8(&value.0).unwrap()))
            .collect();
        insta::assert_yaml_snapshot!((&secret.metadata, &secret.type_, text));
    }

    #[test]
    fn the_version_changes_with_the_content_only() {
        let mut other = inputs();
        other.credentials.password = "another".into();
        let version = |inputs| version_of(&secret(&pool(), &inputs, &place(0)));
        assert_eq!(version(inputs()), version(inputs()));
        assert_ne!(version(inputs()), version(other));
    }
}
