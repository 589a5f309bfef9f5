//! Objects for the tests.

use ahoi_api::{PoolMode, PoolState, Route};

use crate::pool::Pool;

/// An ordinary route to `database`.
pub(crate) fn route(database: &str) -> Route {
    Route {
        server: "pg-eu-1".into(),
        host: "pg-eu-1.databases.svc".into(),
        port: 5432,
        database: database.into(),
        auth_database: "postgres".into(),
        auth_login: "ahoi_pooler_1".into(),
        pool_mode: PoolMode::Transaction,
        pool_size: 8,
        max_client_connections: None,
        state: PoolState::Active,
        retiring: None,
    }
}

/// A Ready pool in a namespace of its own, with a route to `database`.
pub(crate) fn pool(database: &str, version: i64) -> Pool {
    Pool {
        key: format!("customer-{database}/main"),
        version,
        created: version,
        here: true,
        leaving: false,
        ready: true,
        route: Some(route(database)),
        unused: None,
    }
}
