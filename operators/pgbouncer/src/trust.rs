//! Whom a TLS connection may be with.

use std::sync::Arc;

use ahoi_api::TlsMode;
use anyhow::{Context, Result};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, SignatureScheme};

use crate::certificates::{Pair, authorities, chain};

/// How to connect to a pgbouncer of one's own, by whatever name or address: what it shows is known, so nothing else is
/// trusted, whoever signed it.
///
/// # Errors
/// When there is no certificate in `pair`.
pub fn only(pair: &Pair) -> Result<ClientConfig> {
    config(Trusted::Only(chain(&pair.certificate).context("no certificate")?.remove(0)))
}

/// How to connect to a PostgreSQL server as pgbouncer does in this mode
/// (<https://www.pgbouncer.org/config.html#server_tls_sslmode>).
///
/// # Errors
/// When the mode looks at certificates, and there are no authorities to verify them by.
pub fn server(mode: TlsMode, pem: Option<&str>) -> Result<ClientConfig> {
    if !mode.verifies() {
        return config(Trusted::Anybody);
    }
    let roots = Arc::new(pem.and_then(authorities).context("no authorities")?);
    let provider = Arc::new(ring::default_provider());
    let verifier = WebPkiServerVerifier::builder_with_provider(roots, provider).build()?;
    config(Trusted::From { verifier, by_name: mode == TlsMode::VerifyFull })
}

fn config(trusted: Trusted) -> Result<ClientConfig> {
    let provider = Arc::new(ring::default_provider());
    let judge = Judge { trusted, algorithms: provider.signature_verification_algorithms };
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(config.dangerous().with_custom_certificate_verifier(Arc::new(judge)).with_no_client_auth())
}

#[derive(Debug)]
enum Trusted {
    /// Who shows this certificate.
    Only(CertificateDer<'static>),
    /// Who shows one of an authority's, for the name by which it was connected to unless that does not matter.
    From { verifier: Arc<WebPkiServerVerifier>, by_name: bool },
    /// Whoever answers: it is encrypted, and no more.
    Anybody,
}

#[derive(Debug)]
struct Judge {
    trusted: Trusted,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for Judge {
    fn verify_server_cert(
        &self,
        shown: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        use CertificateError::{ApplicationVerificationFailure, NotValidForName, NotValidForNameContext};
        match &self.trusted {
            Trusted::Anybody => Ok(ServerCertVerified::assertion()),
            Trusted::Only(expected) if shown == expected => Ok(ServerCertVerified::assertion()),
            Trusted::Only(_) => Err(Error::InvalidCertificate(ApplicationVerificationFailure)),
            Trusted::From { verifier, by_name } => {
                match verifier.verify_server_cert(shown, others, name, ocsp, now) {
                    // The name is looked at last.
                    Err(Error::InvalidCertificate(NotValidForName | NotValidForNameContext { .. })) if !by_name => {
                        Ok(ServerCertVerified::assertion())
                    }
                    outcome => outcome,
                }
            }
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
