//! Whether pgbouncer shows its clients the certificate of its files. Its own word is no proof: it reads its settings to the
//! end and keeps the certificate it had when it cannot use the new one.

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
const PATIENCE: Duration = Duration::from_secs(5);

/// Begins as a client does, and compares what it is shown.
///
/// # Errors
/// When it is anything but the certificate of `pair`.
pub async fn prove(port: u16, pair: &Pair) -> Result<()> {
    let shown = tokio::time::timeout(PATIENCE, handshake(port, pair)).await;
    shown
        .map_err(anyhow::Error::from)
        .flatten()
        .context("pgbouncer does not show its clients the certificate it was given")
}

async fn handshake(port: u16, pair: &Pair) -> Result<()> {
    let config = trust::only(pair)?;
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    stream.write_all(&SSL_REQUEST).await?;
    ensure!(stream.read_u8().await? == b'S', "it offers no TLS");
    let mut session = TlsConnector::from(Arc::new(config)).connect(ServerName::try_from("localhost")?, stream).await?;
    // It is proved; how the conversation ends does not matter.
    let _ = session.shutdown().await;
    Ok(())
}
