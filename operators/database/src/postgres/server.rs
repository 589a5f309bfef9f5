//! Connections to servers: one small pool for each, replaced when its endpoint or its Secret changes.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ahoi_api::{DatabaseServer, Passwords, SERVER_STARTED};
use ahoi_reconcile::Error;
use kube::ResourceExt;
use parking_lot::Mutex;
use sqlx::postgres::{PgConnectOptions, PgDatabaseError};
use sqlx::{ConnectOptions, Connection, Executor, PgConnection, PgPool};
use tokio::sync::Semaphore;
use tracing::debug;

use super::connections::{CONNECT_TIMEOUT, Connections, SELF_GRANT};
use super::read_only;
use super::tls;
use crate::server::Memory;
use crate::server::Seen;

/// CREATE and DROP DATABASE at once; they are heavy, and the connection left over is for everything else.
const MAX_CHANGES: usize = 3;
/// Whoever asks whether the server is there wants to know now.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);
/// Sessions that a pooler cannot make wait. Whoever may not see what others do sees at least these columns.
const DIRECT_SESSIONS: &str = r"SELECT count(*) FROM pg_stat_activity WHERE datname IS NOT NULL AND usename IS NOT NULL
    AND pid <> pg_backend_pid() AND usename NOT LIKE 'ahoi\_pooler\_%'
    AND coalesce(application_name, '') NOT LIKE 'ahoi-database%'";
/// A server that answered so recently is busy rather than gone when no connection is free.
const RECENTLY: Duration = Duration::from_secs(15);

/// Keeps the statements of a session, some of which set verifiers, out of the server's log as far as the role may
/// (<https://www.postgresql.org/docs/current/runtime-config-logging.html>).
const NOT_LOGGED: &str = "DO $$ DECLARE setting text[]; BEGIN \
     FOREACH setting SLICE 1 IN ARRAY ARRAY[['log_statement', 'none'], ['log_min_error_statement', 'panic'], \
       ['log_min_duration_statement', '-1'], ['log_min_duration_sample', '-1'], ['log_transaction_sample_rate', '0']] LOOP \
       BEGIN PERFORM set_config(setting[1], setting[2], false); EXCEPTION WHEN insufficient_privilege THEN NULL; END; \
     END LOOP; END $$";

/// SQLSTATE of a role that cannot be dropped because something depends on it.
pub const DEPENDENT_OBJECTS: &str = "2BP01";

/// A role and its password, such as those that the controller is on a server.
#[derive(Clone, Hash)]
pub struct Login {
    /// The role.
    pub username: String,
    /// Its password.
    pub password: String,
}

/// Every pool, by the server's name.
pub struct Pools {
    pools: Mutex<HashMap<String, Arc<ServerPool>>>,
    /// Run at the start of each session.
    session: &'static [&'static str],
}

impl Pools {
    /// None yet; with whether the servers may log the statements of their sessions, verifiers among them.
    pub fn new(logged: bool) -> Self {
        Pools { pools: Mutex::default(), session: if logged { &[SELF_GRANT] } else { &[NOT_LOGGED, SELF_GRANT] } }
    }

    /// The pool for the server as it is described now.
    pub fn get(&self, server: &DatabaseServer, login: &Login, ca: Option<&str>) -> Arc<ServerPool> {
        let name = server.name_any();
        let fingerprint = fingerprint(server, login, ca);
        let mut pools = self.pools.lock();
        if let Some(pool) = pools.get(&name).filter(|pool| pool.fingerprint == fingerprint) {
            return pool.clone();
        }
        // What was seen on a server is true of it by whatever login.
        let place = place(server);
        let memory = pools.get(&name).filter(|old| old.place == place).map(|old| old.memory.clone());
        let (known, memory) = ((place, fingerprint), memory.unwrap_or_default());
        let pool = Arc::new(ServerPool::new(server, login, ca, self.session, known, memory));
        // The one before ends with the last pass that uses it.
        pools.insert(name, pool.clone());
        pool
    }

    /// Lets go of the servers that are no more.
    pub fn retain(&self, exists: impl Fn(&str) -> bool) {
        self.pools.lock().retain(|name, _| exists(name));
    }
}

/// In memory only, where a password may be part of it.
fn fingerprint(server: &DatabaseServer, login: &Login, ca: Option<&str>) -> u64 {
    let (spec, mut hasher) = (&server.spec, DefaultHasher::new());
    let tls = spec.tls.mode as u8;
    (server.uid(), &spec.host, spec.port, &spec.admin_database, tls, ca, login).hash(&mut hasher);
    hasher.finish()
}

/// Where a server is; another place is another server.
fn place(server: &DatabaseServer) -> Place {
    (server.uid(), server.spec.host.clone(), server.spec.port)
}

type Place = (Option<String>, String, i32);

/// The connections to one server.
pub struct ServerPool {
    /// Name of the DatabaseServer.
    pub name: String,
    /// The authorities (PEM) that its certificate may come from; clients need them as well.
    pub authorities: Option<String>,
    /// Taken for each CREATE and DROP DATABASE.
    pub changes: Semaphore,
    /// What the sweeps remember.
    pub memory: Arc<Mutex<Memory>>,
    connections: Connections,
    place: Place,
    fingerprint: u64,
    answered: Mutex<Option<Instant>>,
    /// Whether the admin role may not read verifiers; as last found.
    hides_passwords: AtomicBool,
}

/// Why a statement was not done.
#[derive(Debug)]
pub enum Failure {
    /// The server cannot be reached, or is starting or stopping.
    Unreachable,
    /// It offers no TLS, or a certificate that is not trusted; what is wrong with it.
    NotTrusted(String),
    /// It refuses the login of the controller, or the admin database.
    LoginRefused(String),
    /// All connections are in use, the controller's or the server's.
    Busy,
    /// It refused the statement.
    Refused {
        /// SQLSTATE.
        code: String,
        /// Its words.
        message: String,
    },
}

impl Failure {
    /// What that is to a reconcile.
    pub fn into_error(self, server: &str) -> Error {
        match self {
            Failure::Unreachable => unreachable(server),
            Failure::NotTrusted(problem) => tls::not_trusted(server, &problem),
            Failure::LoginRefused(message) => Error::structural(
                "LoginRefused",
                format!("DatabaseServer {server} refuses the login of its admin Secret: {message}"),
            ),
            Failure::Busy => Error::Other(anyhow::anyhow!("DatabaseServer {server} has no free connection")),
            Failure::Refused { code, .. } if code == read_only::SQLSTATE => read_only::waits(server),
            Failure::Refused { code, message } if code == "42501" => Error::structural(
                "PrivilegeMissing",
                format!("the admin role on DatabaseServer {server} may not do this: {message}"),
            ),
            Failure::Refused { code, message } => {
                Error::Other(anyhow::anyhow!("DatabaseServer {server} answered: {message} (SQLSTATE {code})"))
            }
        }
    }
}

/// The reason a Database gives that waits for a server which cannot be reached.
pub const SERVER_UNREACHABLE: &str = "DatabaseServerUnreachable";

/// Whether an error of a Database is one that its DatabaseServer has, and tells, while it is not Ready.
pub fn is_refusal_of_the_server(reason: &str) -> bool {
    [
        "WaitingForDatabaseServer",
        read_only::SERVER_READ_ONLY,
        "LoginRefused",
        "NotTrusted",
        "SecretNotFound",
        "SecretIncomplete",
    ]
    .contains(&reason)
}

/// What a Database says while its server cannot be reached, however that was found.
pub fn unreachable(server: &str) -> Error {
    Error::waiting(SERVER_UNREACHABLE, format!("DatabaseServer {server} is unreachable; its condition Ready says why"))
}

/// A connection of its own; none when there is no answer in time.
async fn connect(options: &PgConnectOptions) -> Option<Result<PgConnection, sqlx::Error>> {
    tokio::time::timeout(CONNECT_TIMEOUT, PgConnection::connect_with(options)).await.ok()
}

/// What PostgreSQL says, with the detail where only that names the obstacle: a prepared transaction, a subscription, an object
/// that depends on a role.
fn explained(answer: &dyn sqlx::error::DatabaseError, code: &str) -> String {
    const OBJECT_IN_USE: &str = "55006";
    let message = answer.message().to_owned();
    let detail = answer.try_downcast_ref::<PgDatabaseError>().and_then(PgDatabaseError::detail);
    match detail.filter(|_| code == OBJECT_IN_USE || code == DEPENDENT_OBJECTS) {
        Some(detail) => format!("{message}: {}", detail.trim_end_matches('.').replace('\n', "; ")),
        None => message,
    }
}

impl ServerPool {
    fn new(
        server: &DatabaseServer,
        login: &Login,
        ca: Option<&str>,
        session: &'static [&'static str],
        (place, fingerprint): (Place, u64),
        memory: Arc<Mutex<Memory>>,
    ) -> Self {
        let spec = &server.spec;
        let options = PgConnectOptions::new_without_pgpass()
            .host(&spec.host)
            .port(u16::try_from(spec.port).unwrap_or(5432))
            .username(&login.username)
            .password(&login.password)
            .database(&spec.admin_database)
            // Nothing that a customer has made in its own database may come before what the statements mean.
            .options([("search_path", "pg_catalog"), ("statement_timeout", "60s"), ("lock_timeout", "10s")])
            // sqlx sets none on its side of a connection. On the server's they end the session of a controller that vanished.
            .options([("tcp_keepalives_idle", "10"), ("tcp_keepalives_interval", "5"), ("tcp_keepalives_count", "3")])
            // Slow statements would be logged with their text.
            .disable_statement_logging();
        let found = server.status.as_ref().and_then(|status| status.passwords);
        let options = tls::secure(options, spec.tls.mode, ca);
        ServerPool {
            name: server.name_any(),
            authorities: ca.map(str::to_owned),
            changes: Semaphore::new(MAX_CHANGES),
            memory,
            connections: Connections::new(options, session),
            place,
            fingerprint,
            answered: Mutex::default(),
            hides_passwords: AtomicBool::new(found == Some(Passwords::File)),
        }
    }

    /// Runs a query for one text, such as a JSON document; its parameters are lists of names.
    pub async fn text(&self, sql: &str, names: [Option<&[String]>; 2]) -> Result<String, Failure> {
        let [first, second] = names;
        self.ask(async |pool| sqlx::query_scalar(sql).bind(first).bind(second).fetch_one(&pool).await).await
    }

    /// Runs a query for pairs of texts; its parameter is a text.
    pub async fn pairs(&self, sql: &str, parameter: &str) -> Result<Vec<(String, String)>, Failure> {
        self.ask(async |pool| sqlx::query_as(sql).bind(parameter).fetch_all(&pool).await).await
    }

    /// Whether a login has a session, wherever on the server.
    pub async fn is_used(&self, login: &str) -> Result<bool, Failure> {
        let sql = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE usename = $1)";
        self.ask(async |pool| sqlx::query_scalar(sql).bind(login).fetch_one(&pool).await).await
    }

    /// How many bytes each of these databases takes; those that are being dropped are left out.
    pub async fn sizes(&self, databases: &[String]) -> Result<Vec<(String, i64)>, Failure> {
        // Of one whose files have gone meanwhile PostgreSQL says NULL.
        let sql = "SELECT name, size FROM (SELECT datname::text AS name, pg_database_size(oid) AS size FROM pg_database \
                   WHERE datname = ANY($1) AND datconnlimit <> -2) AS sized WHERE size IS NOT NULL";
        self.ask(async |pool| sqlx::query_as(sql).bind(databases).fetch_all(&pool).await).await
    }

    /// Runs statements in the admin database; several of them are one transaction.
    pub async fn run(&self, sql: &str) -> Result<(), Failure> {
        self.ask(async |pool| pool.execute(sqlx::raw_sql(sql)).await.map(|_| ())).await
    }

    /// Runs a statement on a connection of the pool.
    async fn ask<T>(&self, statement: impl AsyncFnOnce(PgPool) -> Result<T, sqlx::Error>) -> Result<T, Failure> {
        self.judge(self.connections.wait_for(statement(self.connections.pool())).await)
    }

    /// Whether the admin role may not read verifiers.
    pub fn hides_passwords(&self) -> bool {
        self.hides_passwords.load(Ordering::Relaxed)
    }

    /// What was found about that.
    pub fn set_hides_passwords(&self, hides: bool) {
        self.hides_passwords.store(hides, Ordering::Relaxed);
    }

    /// Whether a login gets in with its password; none where something else is in the way.
    pub async fn lets_in(&self, database: &str, login: &Login) -> Option<bool> {
        match connect(&self.options_of(database, login)).await? {
            Ok(connection) => {
                // It is closed either way.
                let _ = connection.close().await;
                Some(true)
            }
            Err(sqlx::Error::Database(answer)) if answer.code().as_deref() == Some("28P01") => Some(false),
            Err(_) => None,
        }
    }

    /// A connection of its own to a customer's database.
    pub async fn inside(&self, database: &str) -> Result<PgConnection, Failure> {
        let outcome = connect(&self.connections.options().clone().database(database)).await;
        outcome.map_or(Err(Failure::Unreachable), |outcome| self.judge(outcome))
    }

    /// Asks the server itself, by a connection of its own: one of the pool's would be waited for while the server is away.
    pub async fn probe(&self) -> Result<Seen, Failure> {
        let asked = async {
            let mut connection = PgConnection::connect_with(self.connections.options()).await?;
            let started = sqlx::query_scalar(SERVER_STARTED).fetch_one(&mut connection).await?;
            let direct_sessions = sqlx::query_scalar(DIRECT_SESSIONS).fetch_one(&mut connection).await?;
            // It is closed either way.
            let _ = connection.close().await;
            Ok(Seen { started, direct_sessions })
        };
        match tokio::time::timeout(PROBE_TIMEOUT, asked).await {
            Ok(outcome) => self.judge(outcome),
            Err(_) => Err(Failure::Unreachable),
        }
    }

    /// Runs statements on a connection from [`inside`](Self::inside).
    pub async fn run_inside(&self, connection: &mut PgConnection, sql: &str) -> Result<(), Failure> {
        let outcome = self.connections.wait_for(connection.execute(sqlx::raw_sql(sql))).await;
        self.judge(outcome.map(|_| ()))
    }

    /// Runs a query for one row on such a connection.
    pub async fn fetch_inside<T>(&self, connection: &mut PgConnection, sql: &str) -> Result<T, Failure>
    where
        T: for<'r> sqlx::FromRow<'r, sqlx::postgres::PgRow> + Send + Unpin,
    {
        self.judge(self.connections.wait_for(sqlx::query_as(sql).fetch_one(connection)).await)
    }

    /// Logs in to a database as somebody else, for an answer, and leaves.
    pub async fn log_in(&self, database: &str, login: &Login) -> Result<(), Failure> {
        let outcome = connect(&self.options_of(database, login)).await.ok_or(Failure::Unreachable)?;
        let mut connection = self.judge(outcome)?;
        let answered = tokio::time::timeout(CONNECT_TIMEOUT, connection.execute("SELECT 1")).await;
        // It is closed either way.
        let _ = connection.close().await;
        answered.map_or(Err(Failure::Unreachable), |answered| self.judge(answered.map(|_| ())))
    }

    fn options_of(&self, database: &str, login: &Login) -> PgConnectOptions {
        self.connections.options().clone().database(database).username(&login.username).password(&login.password)
    }

    fn judge<T>(&self, outcome: Result<T, sqlx::Error>) -> Result<T, Failure> {
        let error = match outcome {
            Ok(value) => {
                *self.answered.lock() = Some(Instant::now());
                return Ok(value);
            }
            Err(error) => error,
        };
        debug!(server = self.name, %error, "not done");
        if let Some(problem) = tls::problem(&error) {
            return Err(Failure::NotTrusted(problem));
        }
        Err(match &error {
            sqlx::Error::Database(answer) => {
                let code = answer.code().unwrap_or_default().into_owned();
                let message = explained(&**answer, &code);
                match code.as_str() {
                    "28000" | "28P01" | "3D000" => Failure::LoginRefused(message),
                    "53300" => Failure::Busy,
                    "57P01" | "57P02" | "57P03" => Failure::Unreachable,
                    code if code.starts_with("08") => Failure::Unreachable,
                    _ => Failure::Refused { code, message },
                }
            }
            // It answered, and not what was expected.
            sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) | sqlx::Error::RowNotFound => {
                Failure::Refused { code: String::new(), message: error.to_string() }
            }
            sqlx::Error::PoolTimedOut if self.answered.lock().is_some_and(|at| at.elapsed() < RECENTLY) => {
                Failure::Busy
            }
            _ => Failure::Unreachable,
        })
    }
}
