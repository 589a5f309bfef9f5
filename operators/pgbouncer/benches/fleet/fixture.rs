//! What the processes and the agent of the benchmark share.

use std::path::PathBuf;
use std::time::Duration;

use ahoi_api::{PoolMode, PoolState, PoolerLogin, Route};
use ahoi_pgbouncer::config::Poolers;
use anyhow::Result;
use tokio_postgres::{Client, Config, NoTls};

/// Number of routes that are added to each process, one after the other.
pub const ADDED: usize = 5;
/// Number of databases that exist for each process: those that are used from the beginning, and those of added routes.
pub const REAL: usize = 2 * ADDED;
/// The login of clients.
pub const LOGIN: &str = "bench_app";
/// Its password.
pub const PASSWORD: &str = "bench";

/// Paths and ports, from the environment.
#[derive(Clone, Debug)]
pub struct Place {
    /// A directory in memory, as in a pod.
    pub directory: PathBuf,
    /// The pgbouncer program.
    pub pgbouncer: PathBuf,
    /// Port of PostgreSQL.
    pub postgres: u16,
}

/// Name of a database that exists.
pub fn real(number: usize) -> String {
    format!("bench_{number}")
}

/// A route to a database.
pub fn route(database: &str, port: u16) -> Route {
    Route {
        server: "bench".into(),
        host: "127.0.0.1".into(),
        port: port.into(),
        database: database.into(),
        auth_database: "postgres".into(),
        pool_mode: PoolMode::Transaction,
        pool_size: 8,
        max_client_connections: Some(100),
        reconnect_request: None,
        migration: None,
        state: PoolState::Active,
        ..Route::default()
    }
}

/// The login for auth_query.
pub fn poolers() -> Poolers {
    [("bench".to_owned(), PoolerLogin { name: "ahoi_pooler_1".into(), password: PASSWORD.into() })].into()
}

/// A session.
pub async fn connect(port: u16, login: &str, database: &str) -> Result<Client> {
    let mut config = Config::new();
    config.host("127.0.0.1").port(port).user(login).password(PASSWORD).dbname(database);
    config.connect_timeout(Duration::from_secs(30));
    let (client, connection) = config.connect(NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

/// Without the unit, which is in the head of the table.
pub fn milliseconds(time: Duration) -> String {
    format!("{:.1}", time.as_secs_f64() * 1000.0)
}
