//! Whether pgbouncer shows its clients the certificate of its files. Its own word is no proof: it reads its settings to the
//! end and keeps the certificate it had when it cannot use the new one.

use std::sync::Arc;
use std::time::Duration;

use ahoi_pgbouncer::certificates::{Pair, chain};
use anyhow::{Context, Result, ensure};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
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
    let expected = chain(&pair.certificate).context("no certificate")?.remove(0);
    let provider = Arc::new(ring::default_provider());
    let only = Only { expected, algorithms: provider.signature_verification_algorithms };
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(only))
        .with_no_client_auth();
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    stream.write_all(&SSL_REQUEST).await?;
    ensure!(stream.read_u8().await? == b'S', "it offers no TLS");
    let mut session = TlsConnector::from(Arc::new(config)).connect(ServerName::try_from("localhost")?, stream).await?;
    // It is proved; how the conversation ends does not matter.
    let _ = session.shutdown().await;
    Ok(())
}

/// Trusts one certificate.
#[derive(Debug)]
struct Only {
    expected: CertificateDer<'static>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for Only {
    fn verify_server_cert(
        &self,
        shown: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if *shown == self.expected {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure))
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
