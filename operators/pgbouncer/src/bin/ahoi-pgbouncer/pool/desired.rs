//! The route and the Secret of a pool; pure.

use std::collections::BTreeMap;

use ahoi_api::{BINDING_LABEL, BINDING_SECRET_TYPE, CUSTOMER_LABEL, ConnectionPool, Passwords, Place, Route};
use ahoi_pgbouncer::{PORT, fleet};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, PercentEncode, utf8_percent_encode};
use sha2::{Digest, Sha256};

use super::resolve::Resolved;

/// Where the pool leads.
pub fn route(pool: &ConnectionPool, resolved: &Resolved) -> Route {
    let fleet = &resolved.fleet.spec;
    Route {
        server: resolved.server.name_any(),
        host: resolved.server.spec.host.clone(),
        port: resolved.server.spec.port,
        database: resolved.database.clone(),
        auth_database: resolved.server.spec.admin_database.clone(),
        passwords: resolved.passwords(),
        login: (resolved.passwords() == Passwords::File).then(|| resolved.credentials.username.clone()),
        pool_mode: pool.spec.pool_mode.unwrap_or(fleet.pool_mode),
        pool_size: pool.spec.pool_size.unwrap_or(fleet.default_pool_size),
        max_client_connections: pool.spec.max_client_connections,
        query_timeout_seconds: pool.spec.query_timeout_seconds,
        idle_transaction_timeout_seconds: pool.spec.idle_transaction_timeout_seconds,
        reconnect: pool.spec.reconnect.clone(),
        migration: pool.spec.migration.clone(),
        state: pool.spec.state,
        // Known only once the Secret is what it is to be.
        retiring: None,
    }
}

/// What the name of a pool's Secret has after the pool's name.
pub const SECRET_SUFFIX: &str = "-pool";

/// The name of the pool's Secret.
pub fn secret_name(pool: &ConnectionPool) -> String {
    format!("{}{SECRET_SUFFIX}", pool.name_any())
}

/// What an application mounts: its own login, at the address of its shard.
pub fn secret(pool: &ConnectionPool, resolved: &Resolved, place: &Place) -> Secret {
    let host = fleet::host(&place.fleet.namespace, &fleet::shard(&place.fleet.name, place.shard));
    let (username, password) = (&resolved.credentials.username, &resolved.credentials.password);
    let uri = format!(
        "postgresql://{}:{}@{host}:{PORT}/{}",
        encoded(username),
        encoded(password),
        encoded(&resolved.database)
    );
    let data = [
        ("type", "postgresql"),
        ("provider", "ahoi"),
        ("host", &host),
        ("port", &PORT.to_string()),
        ("database", &resolved.database),
        ("username", username),
        ("password", password),
        ("uri", &uri),
    ];
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
        data: Some(
            data.iter().map(|(name, value)| ((*name).to_owned(), ByteString((*value).as_bytes().to_vec()))).collect(),
        ),
        ..Secret::default()
    }
}

/// Whether the API server would refuse to have the Secret changed into what is desired.
pub fn must_be_made_anew(live: &Secret, desired: &Secret) -> bool {
    live.immutable == Some(true) || live.type_ != desired.type_
}

/// Whether applications would log in by both in the same way.
pub fn same_login(one: &Secret, other: &Secret) -> bool {
    let login = |secret: &Secret| ["username", "password"].map(|key| text(secret, key));
    login(one) == login(other)
}

/// The value of a key, if it is text.
pub fn text(secret: &Secret, key: &str) -> Option<String> {
    String::from_utf8(secret.data.as_ref()?.get(key)?.0.clone()).ok()
}

/// Whether both lead to the same shard of the same fleet.
pub fn same_host(one: &Secret, other: &Secret) -> bool {
    let host = |secret: &Secret| secret.data.as_ref().and_then(|data| data.get("host").cloned());
    host(one) == host(other)
}

/// Changes with the content, and says nothing about it: a generated password leaves nothing to guess.
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

/// Everything is encoded but RFC 3986's unreserved characters.
const SPECIAL: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

fn encoded(text: &str) -> PercentEncode<'_> {
    utf8_percent_encode(text, SPECIAL)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::pool::resolve::Credentials;
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
            reconnect: None,
            migration: None,
            state: PoolState::Active,
        };
        let mut pool = ConnectionPool::new("big-client", spec);
        pool.metadata.namespace = Some("customer-big-client".into());
        pool.metadata.labels = Some([(CUSTOMER_LABEL.to_owned(), "big-client".to_owned())].into());
        pool
    }

    fn resolved() -> Resolved {
        let spec = PgBouncerSpec { default_pool_size: 8, ..PgBouncerSpec::default() };
        let mut fleet = PgBouncer::new("global", spec);
        fleet.metadata.namespace = Some("ahoi-system".into());
        let server = serde_json::from_value(serde_json::json!({
"host": "pg-1.databases.svc", "port": 5433, "adminSecretRef": {"namespace": "ahoi-system", "name": "pg-1"}}))
        .unwrap();
        Resolved {
            fleet: Arc::new(fleet),
            server: Arc::new(DatabaseServer::new("pg-1", server)),
            database: "c_ab12".into(),
            former: None,
            credentials: Credentials { username: "c_ab12_a".into(), password: "p@ss/w:rd".into() },
            certificates: Material::default(),
        }
    }

    fn place(shard: i32) -> Place {
        Place { fleet: NamespacedRef { namespace: "ahoi-system".into(), name: "global".into() }, shard }
    }

    #[test]
    fn the_route() {
        insta::assert_yaml_snapshot!(route(&pool(), &resolved()));
    }

    #[test]
    fn on_a_server_where_nothing_is_looked_up_the_route_names_its_login() {
        let mut resolved = resolved();
        let mut server = DatabaseServer::clone(&resolved.server);
        server.status = Some(DatabaseServerStatus { passwords: Some(Passwords::File), ..Default::default() });
        resolved.server = Arc::new(server);
        let route = route(&pool(), &resolved);
        assert_eq!((route.passwords, route.login.as_deref()), (Passwords::File, Some("c_ab12_a")));
    }

    #[test]
    fn what_the_pool_says_wins_over_the_fleet() {
        let mut pool = pool();
        pool.spec.pool_mode = Some(PoolMode::Session);
        pool.spec.pool_size = Some(3);
        pool.spec.state = PoolState::Paused;
        let route = route(&pool, &resolved());
        assert_eq!((route.pool_mode, route.pool_size, route.state), (PoolMode::Session, 3, PoolState::Paused));
    }

    #[test]
    fn the_secret() {
        let elsewhere = secret(&pool(), &resolved(), &place(2));
        assert_eq!(elsewhere.data.as_ref().unwrap()["host"].0, b"global-s2.ahoi-system.svc");
        let secret = secret(&pool(), &resolved(), &place(0));
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
    fn the_version_changes_with_the_content_alone() {
        let mut other = resolved();
        other.credentials.password = "another".into();
        let version = |resolved| version_of(&secret(&pool(), &resolved, &place(0)));
        assert_eq!(version(resolved()), version(resolved()));
        assert_ne!(version(resolved()), version(other));
    }
}
