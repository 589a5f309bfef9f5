//! Objects for the tests.

use ahoi_api::{Passwords, PoolMode, PoolState, PoolerLogin, Route};

use crate::config::Poolers;
use crate::pool::Pool;

/// An ordinary route to `database`.
pub(crate) fn route(database: &str) -> Route {
    Route {
        server: "pg-eu-1".into(),
        host: "pg-eu-1.databases.svc".into(),
        port: 5432,
        database: database.into(),
        auth_database: "postgres".into(),
        passwords: Passwords::Lookup,
        login: None,
        pool_mode: PoolMode::Transaction,
        pool_size: 8,
        max_client_connections: None,
        query_timeout_seconds: None,
        idle_transaction_timeout_seconds: None,
        reconnect_request: None,
        migration: None,
        state: PoolState::Active,
        retiring: None,
    }
}

/// The login on the server of [`route`], with a password that needs quoting.
pub(crate) fn poolers() -> Poolers {
    [("pg-eu-1".to_owned(), PoolerLogin { name: "ahoi_pooler_1_a".into(), password: "se\"cret".into() })].into()
}

/// A route to `database` on a server with `File` passwords.
pub(crate) fn file_route(database: &str) -> Route {
    Route { passwords: Passwords::File, login: Some(format!("{database}_a")), ..route(database) }
}

/// A verifier as PostgreSQL and pgbouncer read it.
pub(crate) const VERIFIER: &str = "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$\
    WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=";

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
