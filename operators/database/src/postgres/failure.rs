//! Why PostgreSQL did not run a statement, and what that means to a reconcile.

use ahoi_api::Reason;
use ahoi_reconcile::Error;
use sqlx::postgres::PgDatabaseError;

use super::tls;

/// SQLSTATE of a role that cannot be dropped because another object depends on it.
pub const DEPENDENT_OBJECTS: &str = "2BP01";
/// SQLSTATE of a DROP or RENAME of an object that a session uses.
const OBJECT_IN_USE: &str = "55006";
/// SQLSTATE of a statement that would write in a read-only transaction.
pub const READ_ONLY_TRANSACTION: &str = "25006";
const INSUFFICIENT_PRIVILEGE: &str = "42501";

/// Why a statement failed.
#[derive(Debug)]
pub enum Failure {
    /// The server is unreachable, starting or stopping.
    Unreachable,
    /// The server offers no TLS, or presents a certificate that is not trusted; the problem in words.
    NotTrusted(String),
    /// The server refuses the login, or the admin database does not exist; PostgreSQL's message.
    LoginRefused(String),
    /// All connections are in use, those of the controller or those of the server.
    Busy,
    /// The server refused the statement.
    Refused {
        /// SQLSTATE.
        code: String,
        /// PostgreSQL's message.
        message: String,
    },
}

impl Failure {
    /// Classifies an error of the driver. `is_answering` is true if the server has answered a moment ago.
    pub fn of(error: &sqlx::Error, is_answering: bool) -> Self {
        if let Some(problem) = tls::problem(error) {
            return Failure::NotTrusted(problem);
        }
        match error {
            sqlx::Error::Database(answer) => {
                let code = answer.code().unwrap_or_default().into_owned();
                let message = with_detail(&**answer, &code);
                match code.as_str() {
                    "28000" | "28P01" | "3D000" => Failure::LoginRefused(message),
                    "53300" => Failure::Busy,
                    "57P01" | "57P02" | "57P03" => Failure::Unreachable,
                    code if code.starts_with("08") => Failure::Unreachable,
                    _ => Failure::Refused { code, message },
                }
            }
            // The server answered with something unexpected.
            sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) | sqlx::Error::RowNotFound => {
                Failure::Refused { code: String::new(), message: error.to_string() }
            }
            sqlx::Error::PoolTimedOut if is_answering => Failure::Busy,
            _ => Failure::Unreachable,
        }
    }

    /// The error of a reconcile of `server` that met this failure.
    pub fn into_error(self, server: &str) -> Error {
        match self {
            Failure::Unreachable => unreachable(server),
            Failure::NotTrusted(problem) => not_trusted(server, &problem),
            Failure::LoginRefused(message) => Error::structural(
                Reason::LoginRefused,
                format!(
                    "DatabaseServer {server} refuses the login of its admin Secret: {message}. Correct the Secret that \
                     spec.adminSecretRef names, or pg_hba.conf"
                ),
            ),
            Failure::Busy => Error::Other(anyhow::anyhow!("DatabaseServer {server} has no free connection")),
            Failure::Refused { code, .. } if code == READ_ONLY_TRANSACTION => server_read_only(server),
            Failure::Refused { code, message } if code == INSUFFICIENT_PRIVILEGE => Error::structural(
                Reason::PrivilegeMissing,
                format!(
                    "the admin role of DatabaseServer {server} lacks a privilege: {message}. Grant it as a superuser"
                ),
            ),
            Failure::Refused { code, message } => {
                Error::Other(anyhow::anyhow!("DatabaseServer {server} answered: {message} (SQLSTATE {code})"))
            }
        }
    }
}

/// PostgreSQL's message, with the detail where only the detail names the obstacle: a prepared transaction, a subscription, an
/// object that depends on a role.
fn with_detail(answer: &dyn sqlx::error::DatabaseError, code: &str) -> String {
    let message = answer.message().to_owned();
    let detail = answer.try_downcast_ref::<PgDatabaseError>().and_then(PgDatabaseError::detail);
    match detail.filter(|_| code == OBJECT_IN_USE || code == DEPENDENT_OBJECTS) {
        Some(detail) => format!("{message}: {}", detail.trim_end_matches('.').replace('\n', "; ")),
        None => message,
    }
}

/// The error of a Database whose server is unreachable. The same words however that was found, so that the status is written once.
pub fn unreachable(server: &str) -> Error {
    Error::waiting(
        Reason::DatabaseServerUnreachable,
        format!("DatabaseServer {server} is unreachable: see its condition Ready"),
    )
}

/// The error while the TLS of a server is not what its DatabaseServer demands.
pub fn not_trusted(server: &str, problem: &str) -> Error {
    Error::structural(
        Reason::NotTrusted,
        format!(
            "DatabaseServer {server} is reachable but not trusted: {problem}. Check spec.host and spec.tls of the \
             DatabaseServer, and the certificate of the server"
        ),
    )
}

/// The error of a Database whose server is read-only. The same words however that was found.
pub fn server_read_only(server: &str) -> Error {
    Error::waiting(
        Reason::DatabaseServerReadOnly,
        format!("DatabaseServer {server} is read-only: see its condition Ready"),
    )
}

/// The error of a DatabaseServer that is read-only.
pub fn read_only(server: &str, is_standby: bool) -> Error {
    let problem = if is_standby {
        "PostgreSQL is a standby (in recovery). Set spec.host to the host name of the primary"
    } else {
        "default_transaction_read_only is on. Turn it off for the server and for the admin role"
    };
    Error::structural(Reason::DatabaseServerReadOnly, format!("DatabaseServer {server} is read-only: {problem}"))
}
