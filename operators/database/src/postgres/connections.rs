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
mod tests;
