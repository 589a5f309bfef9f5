//! The connections to one server: a small pool whose idle connections are closed soon, and whose statements do not wait on a
//! dead connection.

use std::io;
use std::pin::pin;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{Connection, Executor, PgConnection, PgPool};
use tokio::time::timeout;
use tracing::info;

/// The `application_name` of every session.
pub const APPLICATION: &str = "ahoi-database";
/// Few: the connections of the server are for customers.
const MAX_CONNECTIONS: u32 = 4;
/// Time limit for a new connection.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// sqlx checks for idle connections at this interval, so they are closed within twice this time. PostgreSQL's smart shutdown
/// waits for every session.
const IDLE_TIMEOUT: Duration = Duration::from_secs(2);
/// An idle connection that does not answer within this time is dead.
const PING_TIMEOUT: Duration = Duration::from_secs(1);

/// An admin role that is not a superuser must be a member of the roles that it creates, to act on their behalf.
pub const SELF_GRANT: &str = "SELECT set_config('createrole_self_grant', 'set, inherit', false) \
     WHERE current_setting('server_version_num')::int >= 160000";

/// Whether the server runs a statement of this controller.
const IS_RUNNING: &str = "SELECT EXISTS (SELECT FROM pg_stat_activity \
     WHERE usename = current_user AND application_name = $1 AND state <> 'idle')";

/// Time limits of statements.
#[derive(Clone, Copy, Debug)]
struct Limits {
    /// Time after which a new connection checks that the server runs the statement.
    check: Duration,
    /// Time until the second check. A statement that the server does not run at both checks is lost.
    recheck: Duration,
    /// Time limit of a check.
    answer: Duration,
    /// Time limit of a statement, the wait for a connection included; the server itself ends a statement after 60 s.
    statement: Duration,
}

const LIMITS: Limits = Limits {
    check: Duration::from_secs(5),
    recheck: Duration::from_secs(1),
    answer: Duration::from_secs(2),
    statement: Duration::from_secs(70),
};

/// The connections to one server.
pub struct Connections {
    options: PgConnectOptions,
    /// Statements at the start of each pooled session.
    session: &'static [&'static str],
    pool: Mutex<PgPool>,
    limits: Limits,
}

impl Connections {
    /// Connects when the first statement runs; each session begins with the statements in `session`.
    pub fn new(options: PgConnectOptions, session: &'static [&'static str]) -> Self {
        let options = options.application_name(APPLICATION);
        Connections { pool: Mutex::new(pool(&options, session)), options, session, limits: LIMITS }
    }

    /// The options for a new connection.
    pub fn options(&self) -> &PgConnectOptions {
        &self.options
    }

    /// The current pool.
    pub fn pool(&self) -> PgPool {
        self.pool.lock().clone()
    }

    /// Waits for a statement as long as the server runs it.
    pub async fn wait_for<T>(&self, statement: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, sqlx::Error> {
        let (mut statement, limits, begun) = (pin!(statement), self.limits, Instant::now());
        let (mut wait, mut unknown) = (limits.check, 0);
        while unknown < 2 && begun.elapsed() < limits.statement {
            match timeout(wait, &mut statement).await {
                Ok(Err(sqlx::Error::PoolTimedOut)) => {
                    // The server answers, but no pooled connection runs a statement: they are dead.
                    if self.is_running().await == Some(false) {
                        self.replace();
                    }
                    return Err(sqlx::Error::PoolTimedOut);
                }
                Ok(outcome) => return outcome,
                Err(_) if self.is_running().await == Some(true) => (wait, unknown) = (limits.check, 0),
                Err(_) => (wait, unknown) = (limits.recheck, unknown + 1),
            }
        }
        self.replace();
        Err(io::Error::new(io::ErrorKind::TimedOut, "the server does not run the statement any more").into())
    }

    /// Whether the server runs a statement of this controller, as a new connection finds; none without an answer.
    async fn is_running(&self) -> Option<bool> {
        let options = self.options.clone().application_name("ahoi-database-check");
        let asked = async {
            let mut connection = PgConnection::connect_with(&options).await?;
            let running = sqlx::query_scalar(IS_RUNNING).bind(APPLICATION).fetch_one(&mut connection).await?;
            let _ = connection.close().await;
            Ok(running)
        };
        match timeout(self.limits.answer, asked).await {
            Ok(Ok(running)) => Some(running),
            // The server refuses this connection, for example because it has no free one: it may still run the statement.
            Ok(Err(sqlx::Error::Database(_))) => Some(true),
            Ok(Err(_)) | Err(_) => None,
        }
    }

    /// Closes every connection; those in use when their statements end.
    fn replace(&self) {
        info!(server = self.options.get_host(), "replacing the connections to PostgreSQL");
        *self.pool.lock() = pool(&self.options, self.session);
    }
}

fn pool(options: &PgConnectOptions, session: &'static [&'static str]) -> PgPool {
    PgPoolOptions::new()
        .after_connect(move |connection, _| {
            Box::pin(async move {
                for statement in session {
                    connection.execute(sqlx::raw_sql(statement)).await?;
                }
                Ok(())
            })
        })
        .test_before_acquire(false)
        .before_acquire(|connection, _| {
            Box::pin(async move { Ok(timeout(PING_TIMEOUT, connection.ping()).await.is_ok_and(|pong| pong.is_ok())) })
        })
        .max_connections(MAX_CONNECTIONS)
        .acquire_timeout(CONNECT_TIMEOUT)
        .idle_timeout(IDLE_TIMEOUT)
        .max_lifetime(Duration::from_secs(30 * 60))
        .connect_lazy_with(options.clone())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    /// AuthenticationOk and ReadyForQuery.
    const WELCOME: &[u8] = b"R\0\0\0\x08\0\0\0\0Z\0\0\0\x05I";

    fn of(port: u16, limits: Limits) -> Connections {
        let options = PgConnectOptions::new_without_pgpass().host("127.0.0.1").port(port).username("u").password("p");
        let options = options.ssl_mode(sqlx::postgres::PgSslMode::Disable);
        Connections { limits, ..Connections::new(options, &[SELF_GRANT]) }
    }

    fn quick() -> Limits {
        let ms = Duration::from_millis;
        Limits { check: ms(100), recheck: ms(50), answer: ms(100), statement: ms(2000) }
    }

    /// A server that accepts every client and then sends nothing, like one whose packets are dropped.
    async fn silent(connections: Arc<AtomicUsize>) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                connections.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(async move {
                    let mut startup = [0; 512];
                    let _ = stream.read(&mut startup).await;
                    let _ = stream.write_all(WELCOME).await;
                    std::future::pending::<()>().await;
                });
            }
        });
        port
    }

    #[tokio::test]
    async fn a_statement_on_a_dead_connection_ends_and_the_pool_is_replaced() {
        let accepted = Arc::new(AtomicUsize::new(0));
        let connections = of(silent(accepted.clone()).await, quick());
        let (pool, begun) = (connections.pool(), Instant::now());
        let mut session = PgConnection::connect_with(connections.options()).await.unwrap();
        let error = connections.wait_for(session.execute("SELECT 1")).await.unwrap_err();
        assert!(matches!(error, sqlx::Error::Io(_)), "{error}");
        assert!(begun.elapsed() < Duration::from_millis(1500), "{:?}", begun.elapsed());
        assert!(accepted.load(Ordering::Relaxed) >= 3, "two checks");
        assert!(!std::ptr::eq(&raw const *pool.options(), &raw const *connections.pool().options()), "another pool");
    }

    #[tokio::test]
    async fn a_statement_that_is_answered_is_not_checked() {
        let accepted = Arc::new(AtomicUsize::new(0));
        let connections = of(silent(accepted.clone()).await, quick());
        let answered = async { Ok::<_, sqlx::Error>(7) };
        assert_eq!(connections.wait_for(answered).await.unwrap(), 7);
        assert_eq!(accepted.load(Ordering::Relaxed), 0);
    }
}
