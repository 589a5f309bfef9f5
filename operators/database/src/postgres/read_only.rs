//! Whether a server takes writes. One that does not is not Ready, and takes no new databases; the customers on it go on.

use ahoi_reconcile::Error;

use super::server::{Failure, ServerPool};

/// The reason of a DatabaseServer that takes no writes.
pub const READ_ONLY: &str = "DatabaseServerReadOnly";
/// The reason of a Database that waits for such a server.
pub const SERVER_READ_ONLY: &str = "DatabaseServerReadOnly";
/// SQLSTATE of a statement that would write where nothing can be written.
pub const SQLSTATE: &str = "25006";
/// SQLSTATEs of a disk that is full or broken.
const DISK: [&str; 2] = ["53100", "58030"];

/// Writes a transaction's id to the WAL and a file for the rows to the disk, and no row: one statement, one transaction. With
/// this setting it waits for the server's own disk and for no standby.
const WRITE: &str = "SET LOCAL synchronous_commit = local; SET LOCAL work_mem = '64kB'; \
     DELETE FROM ahoi.databases WHERE false; SELECT pg_current_xact_id(); SELECT count(*) FROM generate_series(1, 20000)";

/// Proves that the server takes writes.
pub async fn prove_writes(pool: &ServerPool) -> Result<(), Error> {
    let name = &pool.name;
    pool.run(WRITE).await.map_err(|failure| match failure {
        Failure::Refused { code, message } if DISK.contains(&code.as_str()) => Error::structural(
            READ_ONLY,
            format!(
                "DatabaseServer {name} cannot write to its disk: {message} (SQLSTATE {code}). Free or add disk space"
            ),
        ),
        Failure::Refused { code, .. } if code == SQLSTATE => of_server(name, false),
        failure => failure.into_error(name),
    })
}

/// The error of a DatabaseServer that takes no writes.
pub fn of_server(server: &str, is_standby: bool) -> Error {
    let problem = if is_standby {
        "PostgreSQL is a standby (in recovery). Let spec.host name the primary"
    } else {
        "default_transaction_read_only is on. Turn it off for the server and for the admin role"
    };
    Error::structural(READ_ONLY, format!("DatabaseServer {server} is read-only: {problem}"))
}

/// The error of a Database on such a server, however it was found, so that it is written once.
pub fn waits(server: &str) -> Error {
    let message = format!("DatabaseServer {server} is read-only; its condition Ready says why");
    Error::waiting(SERVER_READ_ONLY, message)
}
