//! Which certificates a TLS connection accepts.

use std::sync::Arc;

use ahoi_api::TlsMode;
use anyhow::{Context, Result};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, SignatureScheme};

use crate::certificates::{Pair, authorities, chain};

/// Accepts exactly the certificate of `pair`, whatever the host name. For connections to a pgbouncer whose certificate is known.
///
/// # Errors
/// When there is no certificate in `pair`.
pub fn only(pair: &Pair) -> Result<ClientConfig> {
    config(Trusted::Only(chain(&pair.certificate).context("no certificate")?.remove(0)))
}

/// Accepts what pgbouncer accepts from a PostgreSQL server in this mode
/// (<https://www.pgbouncer.org/config.html#server_tls_sslmode>).
///
/// # Errors
/// When the mode verifies certificates and `pem` contains no authorities.
pub fn server(mode: TlsMode, pem: Option<&str>) -> Result<ClientConfig> {
    if !mode.verifies() {
        return config(Trusted::Any);
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
    /// This certificate.
    Only(CertificateDer<'static>),
    /// A certificate of these authorities, and with `by_name` only one for the host name.
    From { verifier: Arc<WebPkiServerVerifier>, by_name: bool },
    /// Any certificate: the connection is encrypted, not authenticated.
    Any,
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
            Trusted::Any => Ok(ServerCertVerified::assertion()),
            Trusted::Only(expected) if shown == expected => Ok(ServerCertVerified::assertion()),
            Trusted::Only(_) => Err(Error::InvalidCertificate(ApplicationVerificationFailure)),
            Trusted::From { verifier, by_name } => {
                match verifier.verify_server_cert(shown, others, name, ocsp, now) {
                    // The verifier checks the name last.
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
