//! Whether a server accepts writes. One that does not is not Ready and gets no new databases; its customers go on.

use ahoi_api::Reason;
use ahoi_reconcile::Error;

use super::failure::{Failure, READ_ONLY_TRANSACTION, read_only};
use super::server::Postgres;

/// SQLSTATEs of a disk that is full or broken.
const DISK: [&str; 2] = ["53100", "58030"];

/// Writes a transaction id to the WAL and a temporary file to the disk, and no row: one statement, one transaction. With
/// `synchronous_commit = local` it waits for the server's own disk and for no standby.
const WRITE: &str = "SET LOCAL synchronous_commit = local; SET LOCAL work_mem = '64kB'; \
     DELETE FROM ahoi.databases WHERE false; SELECT pg_current_xact_id(); SELECT count(*) FROM generate_series(1, 20000)";

/// Fails unless the server accepts writes.
pub async fn prove_writes(postgres: &Postgres) -> Result<(), Error> {
    let name = &postgres.name;
    postgres.run(WRITE).await.map_err(|failure| match failure {
        Failure::Refused { code, message } if DISK.contains(&code.as_str()) => Error::structural(
            Reason::DatabaseServerReadOnly,
            format!(
                "DatabaseServer {name} cannot write to its disk: {message} (SQLSTATE {code}). Free or add disk space"
            ),
        ),
        Failure::Refused { code, .. } if code == READ_ONLY_TRANSACTION => read_only(name, false),
        failure => failure.into_error(name),
    })
}
