//! TLS of the connections to a server, and why a server is not trusted.

use ahoi_api::TlsMode;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{CertificateError, RootCertStore};
use sqlx::postgres::{PgConnectOptions, PgSslMode};

/// Whether a text consists of certificates (PEM) of authorities.
pub fn are_authorities(pem: &str) -> bool {
    let mut roots = RootCertStore::empty();
    let all = CertificateDer::pem_slice_iter(pem.as_bytes()).all(|der| der.is_ok_and(|der| roots.add(der).is_ok()));
    all && !roots.is_empty()
}

/// Adds what the TLS mode of the server demands.
pub fn secure(options: PgConnectOptions, mode: TlsMode, authorities: Option<&str>) -> PgConnectOptions {
    let options = options.ssl_mode(match mode {
        TlsMode::Disable => PgSslMode::Disable,
        TlsMode::Prefer => PgSslMode::Prefer,
        TlsMode::Require => PgSslMode::Require,
        TlsMode::VerifyCa => PgSslMode::VerifyCa,
        TlsMode::VerifyFull => PgSslMode::VerifyFull,
    });
    match authorities {
        Some(pem) => options.ssl_root_cert_from_pem(pem.as_bytes().to_vec()),
        None => options,
    }
}

/// The problem with the server's TLS, if that is why there is no connection. The text is stable: it contains no time.
pub fn problem(error: &sqlx::Error) -> Option<String> {
    match error {
        sqlx::Error::Tls(error) => Some(error.to_string()),
        sqlx::Error::Io(error) => error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()).map(words),
        _ => None,
    }
}

fn words(error: &rustls::Error) -> String {
    use CertificateError::{
        BadSignature, Expired, ExpiredContext, NotValidForName, NotValidForNameContext, NotValidYet,
        NotValidYetContext, UnknownIssuer,
    };
    let rustls::Error::InvalidCertificate(problem) = error else { return error.to_string() };
    match problem {
        // The signature is wrong if the authority is another one of the same name.
        UnknownIssuer | BadSignature => "its certificate comes from an authority that is not trusted".to_owned(),
        NotValidForName | NotValidForNameContext { .. } => "its certificate is for another host name".to_owned(),
        Expired | ExpiredContext { .. } => "its certificate has expired".to_owned(),
        NotValidYet | NotValidYetContext { .. } => "its certificate is not valid yet".to_owned(),
        other => format!("its certificate is refused: {other:?}"),
    }
}

#[cfg(test)]
mod tests;
