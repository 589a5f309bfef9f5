use super::*;
use crate::postgres::failure::not_trusted;

/// A test authority: `openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=test`.
const AUTHORITY: &str = include_str!("../testdata/ca.crt");

#[test]
fn only_certificates_are_authorities() {
    let garbage = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    for bad in ["", "certificate", garbage, &format!("{AUTHORITY}{garbage}")] {
        assert!(!are_authorities(bad), "{bad}");
    }
    assert!(are_authorities(AUTHORITY));
}

#[test]
fn tls_problems_are_explained_without_times() {
    let io = |inner: rustls::Error| sqlx::Error::Io(std::io::Error::new(std::io::ErrorKind::InvalidData, inner));
    let refused = |problem| problem_of(io(rustls::Error::InvalidCertificate(problem)));
    assert_eq!(refused(CertificateError::NotValidForName), "its certificate is for another host name");
    assert_eq!(refused(CertificateError::UnknownIssuer), "its certificate comes from an authority that is not trusted");
    assert_eq!(refused(CertificateError::BadSignature), refused(CertificateError::UnknownIssuer));
    assert_eq!(refused(CertificateError::Expired), "its certificate has expired");
    let no_tls = sqlx::Error::Tls("server does not support TLS".into());
    insta::assert_snapshot!(not_trusted("pg-1", &problem_of(no_tls)), @"DatabaseServer pg-1 is reachable but not trusted: server does not support TLS. Check spec.host and spec.tls of the DatabaseServer, and the certificate of the server");
    let refused = sqlx::Error::Io(std::io::Error::from(std::io::ErrorKind::ConnectionRefused));
    assert_eq!(problem(&refused), None);
}

fn problem_of(error: sqlx::Error) -> String {
    problem(&error).expect("a problem of TLS")
}
