//! PostgreSQL servers: connections to each, replaced when the endpoint or the admin login changes, and the few forms of
//! statements that the controllers run.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ahoi_api::{SERVER_STARTED, TlsMode};
use parking_lot::Mutex;
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, Connection, Executor, PgConnection, PgPool};
use tokio::sync::Semaphore;
use tracing::debug;

use super::connections::{CONNECT_TIMEOUT, Connections, SELF_GRANT};
use super::failure::Failure;
use super::tls;

/// Limit of concurrent CREATE and DROP DATABASE. They are heavy; the remaining connection is for everything else.
const MAX_CHANGES: usize = 3;
/// Time limit of a probe.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);
/// Sessions that a pooler cannot hold. A role that may not see others' activity sees at least these columns.
const DIRECT_SESSIONS: &str = r"SELECT count(*) FROM pg_stat_activity WHERE datname IS NOT NULL AND usename IS NOT NULL
    AND pid <> pg_backend_pid() AND usename NOT LIKE 'ahoi\_pooler\_%'
    AND coalesce(application_name, '') NOT LIKE 'ahoi-database%'";
/// A server that answered within this time is busy rather than unreachable when no connection is free.
const RECENTLY: Duration = Duration::from_secs(15);

/// Keeps the statements of a session, some of which set verifiers, out of the server's log as far as the role may
/// (<https://www.postgresql.org/docs/current/runtime-config-logging.html>).
const NOT_LOGGED: &str = "DO $$ DECLARE setting text[]; BEGIN \
     FOREACH setting SLICE 1 IN ARRAY ARRAY[['log_statement', 'none'], ['log_min_error_statement', 'panic'], \
       ['log_min_duration_statement', '-1'], ['log_min_duration_sample', '-1'], ['log_transaction_sample_rate', '0']] LOOP \
       BEGIN PERFORM set_config(setting[1], setting[2], false); EXCEPTION WHEN insufficient_privilege THEN NULL; END; \
     END LOOP; END $$";

/// A role and its password.
#[derive(Clone, Hash)]
pub struct Login {
    /// Name of the role.
    pub username: String,
    /// Its password.
    pub password: String,
}

/// How to connect to a server, and as which role.
#[derive(Clone)]
pub struct Endpoint {
    /// Name of the DatabaseServer, for messages.
    pub name: String,
    /// Its uid: another object of the same name is another server.
    pub uid: String,
    /// Host name or address.
    pub host: String,
    /// TCP port.
    pub port: i32,
    /// Database for statements that concern the whole server.
    pub admin_database: String,
    /// How TLS is used and verified.
    pub tls: TlsMode,
    /// Certificates (PEM) of the authorities that the server's certificate may come from.
    pub authorities: Option<String>,
    /// The admin role.
    pub login: Login,
    /// Whether the admin role may not read verifiers, as far as known.
    pub hides_passwords: bool,
}

impl Endpoint {
    /// Identifies these settings. Kept in memory only: a password is part of it.
    fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        (&self.uid, &self.host, self.port, &self.admin_database, self.tls as u8).hash(&mut hasher);
        (&self.authorities, &self.login).hash(&mut hasher);
        hasher.finish()
    }

    fn options(&self) -> PgConnectOptions {
        let options = PgConnectOptions::new_without_pgpass()
            .host(&self.host)
            .port(u16::try_from(self.port).unwrap_or(5432))
            .username(&self.login.username)
            .password(&self.login.password)
            .database(&self.admin_database)
            // No object of a customer's database may change the meaning of a statement.
            .options([("search_path", "pg_catalog"), ("statement_timeout", "60s"), ("lock_timeout", "10s")])
            // sqlx sets none on its side of a connection. On the server's side they end the sessions of a controller that crashed.
            .options([("tcp_keepalives_idle", "10"), ("tcp_keepalives_interval", "5"), ("tcp_keepalives_count", "3")])
            // sqlx would log slow statements with their text.
            .disable_statement_logging();
        tls::secure(options, self.tls, self.authorities.as_deref())
    }
}

/// The connections to every server, by the name of its DatabaseServer.
pub struct PostgresServers {
    servers: Mutex<HashMap<String, Arc<Postgres>>>,
    /// Statements at the start of each session.
    session: &'static [&'static str],
}

impl PostgresServers {
    /// No connection yet. `log_statements` allows servers to log the statements of these sessions, verifiers among them.
    pub fn new(log_statements: bool) -> Self {
        let session: &[&str] = if log_statements { &[SELF_GRANT] } else { &[NOT_LOGGED, SELF_GRANT] };
        PostgresServers { servers: Mutex::default(), session }
    }

    /// The connections to a server. Another endpoint or login replaces those that exist.
    pub fn connect(&self, endpoint: Endpoint) -> Arc<Postgres> {
        let fingerprint = endpoint.fingerprint();
        let mut servers = self.servers.lock();
        if let Some(known) = servers.get(&endpoint.name).filter(|known| known.fingerprint == fingerprint) {
            return known.clone();
        }
        let postgres = Arc::new(Postgres::new(endpoint, fingerprint, self.session));
        // The former one is closed when the last reconcile that uses it ends.
        servers.insert(postgres.name.clone(), postgres.clone());
        postgres
    }

    /// Closes the connections to deleted servers.
    pub fn retain(&self, exists: impl Fn(&str) -> bool) {
        self.servers.lock().retain(|name, _| exists(name));
    }
}

/// One PostgreSQL server.
pub struct Postgres {
    /// Name of the DatabaseServer.
    pub name: String,
    /// Certificates (PEM) of the authorities that its certificate may come from; clients need them as well.
    pub authorities: Option<String>,
    /// Held during each CREATE and DROP DATABASE.
    pub changes: Semaphore,
    connections: Connections,
    fingerprint: u64,
    answered: Mutex<Option<Instant>>,
    /// Whether the admin role may not read verifiers, as last found.
    hides_passwords: AtomicBool,
}

/// What a probe found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// When PostgreSQL was started.
    pub started: String,
    /// Number of sessions that are neither a pooler's nor this controller's.
    pub direct_sessions: i64,
}

/// A connection outside of the pool; none without an answer in time.
async fn connect(options: &PgConnectOptions) -> Option<Result<PgConnection, sqlx::Error>> {
    tokio::time::timeout(CONNECT_TIMEOUT, PgConnection::connect_with(options)).await.ok()
}

impl Postgres {
    fn new(endpoint: Endpoint, fingerprint: u64, session: &'static [&'static str]) -> Self {
        Postgres {
            connections: Connections::new(endpoint.options(), session),
            name: endpoint.name,
            authorities: endpoint.authorities,
            changes: Semaphore::new(MAX_CHANGES),
            fingerprint,
            answered: Mutex::default(),
            hides_passwords: AtomicBool::new(endpoint.hides_passwords),
        }
    }

    /// Runs a query for one text, such as a JSON document, with two lists of names as parameters.
    pub async fn text(&self, sql: &str, names: [Option<&[String]>; 2]) -> Result<String, Failure> {
        let [first, second] = names;
        self.ask(async |pool| sqlx::query_scalar(sql).bind(first).bind(second).fetch_one(&pool).await).await
    }

    /// Runs a query for pairs of texts, with a text as parameter.
    pub async fn pairs(&self, sql: &str, parameter: &str) -> Result<Vec<(String, String)>, Failure> {
        self.ask(async |pool| sqlx::query_as(sql).bind(parameter).fetch_all(&pool).await).await
    }

    /// Whether a login has a session in any database.
    pub async fn is_used(&self, login: &str) -> Result<bool, Failure> {
        let sql = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE usename = $1)";
        self.ask(async |pool| sqlx::query_scalar(sql).bind(login).fetch_one(&pool).await).await
    }

    /// Sizes of these databases in bytes, without those that are being dropped.
    pub async fn sizes(&self, databases: &[String]) -> Result<Vec<(String, i64)>, Failure> {
        // The size of a database whose files were removed meanwhile is NULL.
        let sql = "SELECT name, size FROM (SELECT datname::text AS name, pg_database_size(oid) AS size FROM pg_database \
                   WHERE datname = ANY($1) AND datconnlimit <> -2) AS sized WHERE size IS NOT NULL";
        self.ask(async |pool| sqlx::query_as(sql).bind(databases).fetch_all(&pool).await).await
    }

    /// Runs statements in the admin database; several of them are one transaction.
    pub async fn run(&self, sql: &str) -> Result<(), Failure> {
        self.ask(async |pool| pool.execute(sqlx::raw_sql(sql)).await.map(|_| ())).await
    }

    /// Runs a statement on a pooled connection.
    async fn ask<T>(&self, statement: impl AsyncFnOnce(PgPool) -> Result<T, sqlx::Error>) -> Result<T, Failure> {
        self.classify(self.connections.wait_for(statement(self.connections.pool())).await)
    }

    /// Whether the admin role may not read verifiers.
    pub fn hides_passwords(&self) -> bool {
        self.hides_passwords.load(Ordering::Relaxed)
    }

    /// Records whether the admin role may not read verifiers.
    pub fn set_hides_passwords(&self, hides: bool) {
        self.hides_passwords.store(hides, Ordering::Relaxed);
    }

    /// Whether the server accepts the password of a login; none if another problem prevents the answer.
    pub async fn lets_in(&self, database: &str, login: &Login) -> Option<bool> {
        match connect(&self.options_of(database, login)).await? {
            Ok(connection) => {
                // Closing may fail; the connection ends anyway.
                let _ = connection.close().await;
                Some(true)
            }
            Err(sqlx::Error::Database(answer)) if answer.code().as_deref() == Some("28P01") => Some(false),
            Err(_) => None,
        }
    }

    /// A new connection to a customer's database.
    pub async fn inside(&self, database: &str) -> Result<PgConnection, Failure> {
        let outcome = connect(&self.connections.options().clone().database(database)).await;
        outcome.map_or(Err(Failure::Unreachable), |outcome| self.classify(outcome))
    }

    /// Probes the server by a new connection: a pooled one would be waited for while the server is unreachable.
    pub async fn probe(&self) -> Result<Probe, Failure> {
        let asked = async {
            let mut connection = PgConnection::connect_with(self.connections.options()).await?;
            let started = sqlx::query_scalar(SERVER_STARTED).fetch_one(&mut connection).await?;
            let direct_sessions = sqlx::query_scalar(DIRECT_SESSIONS).fetch_one(&mut connection).await?;
            // Closing may fail; the connection ends anyway.
            let _ = connection.close().await;
            Ok(Probe { started, direct_sessions })
        };
        match tokio::time::timeout(PROBE_TIMEOUT, asked).await {
            Ok(outcome) => self.classify(outcome),
            Err(_) => Err(Failure::Unreachable),
        }
    }

    /// Runs statements on a connection that [`inside`](Self::inside) opened.
    pub async fn run_inside(&self, connection: &mut PgConnection, sql: &str) -> Result<(), Failure> {
        let outcome = self.connections.wait_for(connection.execute(sqlx::raw_sql(sql))).await;
        self.classify(outcome.map(|_| ()))
    }

    /// Runs a query for one row on such a connection.
    pub async fn fetch_inside<T>(&self, connection: &mut PgConnection, sql: &str) -> Result<T, Failure>
    where
        T: for<'r> sqlx::FromRow<'r, sqlx::postgres::PgRow> + Send + Unpin,
    {
        self.classify(self.connections.wait_for(sqlx::query_as(sql).fetch_one(connection)).await)
    }

    /// Logs in to a database as this login, runs a query and disconnects.
    pub async fn log_in(&self, database: &str, login: &Login) -> Result<(), Failure> {
        let outcome = connect(&self.options_of(database, login)).await.ok_or(Failure::Unreachable)?;
        let mut connection = self.classify(outcome)?;
        let answered = tokio::time::timeout(CONNECT_TIMEOUT, connection.execute("SELECT 1")).await;
        // Closing may fail; the connection ends anyway.
        let _ = connection.close().await;
        answered.map_or(Err(Failure::Unreachable), |answered| self.classify(answered.map(|_| ())))
    }

    fn options_of(&self, database: &str, login: &Login) -> PgConnectOptions {
        self.connections.options().clone().database(database).username(&login.username).password(&login.password)
    }

    fn classify<T>(&self, outcome: Result<T, sqlx::Error>) -> Result<T, Failure> {
        match outcome {
            Ok(value) => {
                *self.answered.lock() = Some(Instant::now());
                Ok(value)
            }
            Err(error) => {
                debug!(server = self.name, %error, "statement failed");
                let is_answering = self.answered.lock().is_some_and(|at| at.elapsed() < RECENTLY);
                Err(Failure::of(&error, is_answering))
            }
        }
    }
}
