//! Whether pgbouncer presents the certificate of its files to clients. The marker does not prove that: if pgbouncer cannot use a
//! new certificate, it reads its settings to the end and keeps the old one.

use std::sync::Arc;
use std::time::Duration;

use ahoi_pgbouncer::certificates::Pair;
use ahoi_pgbouncer::trust;
use anyhow::{Context, Result, ensure};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// PostgreSQL's SSLRequest (<https://www.postgresql.org/docs/17/protocol-message-formats.html>).
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];
/// Maximum time for the handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// Starts TLS as a client does, and compares the certificate.
///
/// # Errors
/// When it is not the certificate of `pair`.
pub async fn prove(port: u16, pair: &Pair) -> Result<()> {
    let shown = tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake(port, pair)).await;
    shown
        .map_err(anyhow::Error::from)
        .flatten()
        .context("pgbouncer does not present the certificate of its files to clients")
}

async fn handshake(port: u16, pair: &Pair) -> Result<()> {
    let config = trust::only(pair)?;
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    stream.write_all(&SSL_REQUEST).await?;
    ensure!(stream.read_u8().await? == b'S', "it offers no TLS");
    let mut session = TlsConnector::from(Arc::new(config)).connect(ServerName::try_from("localhost")?, stream).await?;
    // The certificate is proved; errors do not matter any more.
    let _ = session.shutdown().await;
    Ok(())
}
