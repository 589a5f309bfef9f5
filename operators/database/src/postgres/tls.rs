//! How the connections to a server are secured, and what is wrong when they are not trusted.

use ahoi_api::{DatabaseServer, TlsMode};
use ahoi_reconcile::{Cache, Error};
use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{CertificateError, RootCertStore};
use sqlx::postgres::{PgConnectOptions, PgSslMode};

use crate::secret;

/// The key of the authorities in a Secret.
pub const CA: &str = "ca.crt";

/// All authorities that everybody trusts fit into it. They are in each binding Secret, and all of these in memory.
pub const AUTHORITIES_BYTES: usize = 256 * 1024;

/// The authorities (PEM) that the server's certificate may come from, if it names a Secret with them.
pub fn authorities(server: &DatabaseServer, secrets: &Cache<Secret>, suite: &str) -> Result<Option<String>, Error> {
    let Some(reference) = &server.spec.tls.ca_secret_ref else { return Ok(None) };
    let which = format!("Secret {suite}/{}, which spec.tls.caSecretRef of DatabaseServer", reference.name);
    let name = server.name_any();
    let Some(found) = secrets.get_in(suite, &reference.name) else {
        return Err(Error::structural("SecretNotFound", format!("the {which} {name} names, does not exist")));
    };
    let pem = secret::text(&found, CA).filter(|pem| are_authorities(pem) && pem.len() <= AUTHORITIES_BYTES);
    let problem = || {
        format!("the {which} {name} names, has no certificates (PEM) under its key {CA}, or more than 256 KiB of them")
    };
    pem.map(Some).ok_or_else(|| Error::structural("SecretIncomplete", problem()))
}

fn are_authorities(pem: &str) -> bool {
    let mut roots = RootCertStore::empty();
    let all = CertificateDer::pem_slice_iter(pem.as_bytes()).all(|der| der.is_ok_and(|der| roots.add(der).is_ok()));
    all && !roots.is_empty()
}

/// The options with what the server's mode asks for.
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

/// What is wrong with the server's TLS, if that is why there is no connection. Stable text: no times are in it.
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
        // The signature is wrong where the authority is another one of the same name.
        UnknownIssuer | BadSignature => "its certificate comes from an authority that is not trusted".to_owned(),
        NotValidForName | NotValidForNameContext { .. } => "its certificate is for another host name".to_owned(),
        Expired | ExpiredContext { .. } => "its certificate has expired".to_owned(),
        NotValidYet | NotValidYetContext { .. } => "its certificate is not valid yet".to_owned(),
        other => format!("its certificate is refused: {other:?}"),
    }
}

/// What is said of a server whose TLS is not what its DatabaseServer demands.
pub fn not_trusted(server: &str, problem: &str) -> Error {
    Error::structural(
        "NotTrusted",
        format!(
            "DatabaseServer {server} answers, and is not trusted: {problem}; see its spec.host and spec.tls, and the \
             certificate of the server"
        ),
    )
}

#[cfg(test)]
mod tests {
    use ahoi_reconcile::testing::cache;

    use super::*;
    use crate::context::tests::{secret, server};

    /// An authority made for these tests: `openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=test`.
    const AUTHORITY: &str = include_str!("testdata/ca.crt");

    #[test]
    fn authorities_come_from_the_secret_that_is_named() {
        let mut server = server("pg-1");
        assert!(authorities(&server, &cache([]), "ahoi-system").unwrap().is_none());
        server.spec.tls = serde_saphyr::from_str("{mode: VerifyFull, caSecretRef: {name: pg-1-tls}}").unwrap();
        let find = |secrets: Vec<Secret>| authorities(&server, &cache(secrets), "ahoi-system");
        insta::assert_snapshot!(find(vec![]).unwrap_err(), @"the Secret ahoi-system/pg-1-tls, which spec.tls.caSecretRef of DatabaseServer pg-1 names, does not exist");
        let garbage = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        for bad in ["", "certificate", garbage, &format!("{AUTHORITY}{garbage}")] {
            let error = find(vec![secret("pg-1-tls", &[(CA, bad)])]).unwrap_err();
            assert_eq!(error.reason(), "SecretIncomplete", "{bad}");
        }
        assert_eq!(find(vec![secret("pg-1-tls", &[(CA, AUTHORITY)])]).unwrap().as_deref(), Some(AUTHORITY));
    }

    #[test]
    fn what_is_wrong_is_said_and_says_no_time() {
        let io = |inner: rustls::Error| sqlx::Error::Io(std::io::Error::new(std::io::ErrorKind::InvalidData, inner));
        let refused = |problem| problem_of(io(rustls::Error::InvalidCertificate(problem)));
        assert_eq!(refused(CertificateError::NotValidForName), "its certificate is for another host name");
        assert_eq!(
            refused(CertificateError::UnknownIssuer),
            "its certificate comes from an authority that is not trusted"
        );
        assert_eq!(refused(CertificateError::BadSignature), refused(CertificateError::UnknownIssuer));
        assert_eq!(refused(CertificateError::Expired), "its certificate has expired");
        let no_tls = sqlx::Error::Tls("server does not support TLS".into());
        insta::assert_snapshot!(not_trusted("pg-1", &problem_of(no_tls)), @"DatabaseServer pg-1 answers, and is not trusted: server does not support TLS; see its spec.host and spec.tls, and the certificate of the server");
        let away = sqlx::Error::Io(std::io::Error::from(std::io::ErrorKind::ConnectionRefused));
        assert_eq!(problem(&away), None);
    }

    fn problem_of(error: sqlx::Error) -> String {
        problem(&error).expect("a problem of TLS")
    }
}
