//! How the clients of a pool verify its PgBouncer fleet; pure.

use ahoi_api::ClientTlsMode;
use ahoi_pgbouncer::certificates::{AUTHORITIES, Material};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;

/// Adds the TLS settings of clients to the Secret, once the fleet has a certificate.
pub fn secured(mut secret: Secret, mode: ClientTlsMode, certificates: &Material) -> Secret {
    if mode == ClientTlsMode::Disable || certificates.pair.is_none() {
        return secret;
    }
    let data = secret.data.get_or_insert_default();
    let host = data.get("host").map(|host| String::from_utf8_lossy(&host.0)).unwrap_or_default();
    let verifies = mode == ClientTlsMode::Require && certificates.is_verifiable_at(&host);
    let authorities = certificates.client_authorities.as_ref().filter(|_| verifies);
    let sslmode = match (mode, authorities) {
        (ClientTlsMode::Require, Some(_)) => "verify-full",
        // No public authority signs a name that ends with .svc; and the fleet's status lists the shards that its
        // certificate does not cover.
        (ClientTlsMode::Require, None) => "require",
        _ => "prefer",
    };
    data.insert("sslmode".to_owned(), ByteString(sslmode.as_bytes().to_vec()));
    if let Some(authorities) = authorities {
        data.insert(AUTHORITIES.to_owned(), ByteString(authorities.as_bytes().to_vec()));
    }
    if let Some(uri) = data.get_mut("uri") {
        uri.0.extend_from_slice(format!("?sslmode={sslmode}").as_bytes());
    }
    secret
}

#[cfg(test)]
mod tests {
    use ahoi_pgbouncer::certificates::Pair;

    use super::*;

    const GOOD: &str = include_str!("../../../certificates/testdata/good.crt");

    #[test]
    fn clients_verify_the_certificate_if_it_covers_their_host() {
        use ClientTlsMode::{Disable, Prefer, Require};
        let entries_at = |host: &str, mode: ClientTlsMode, pair: bool, authorities: bool| {
            let pair = pair.then(|| Pair { certificate: GOOD.into(), key: "K".into() });
            let client_authorities = authorities.then(|| "PEM".to_owned());
            let certificates = Material { pair, client_authorities, server_authorities: None };
            let data = [("host", host), ("uri", "postgresql://h/d")];
            let data = data.map(|(key, text)| (key.to_owned(), ByteString(text.as_bytes().to_vec())));
            let mut secret = secured(Secret { data: Some(data.into()), ..Secret::default() }, mode, &certificates);
            secret.data.get_or_insert_default().remove("host");
            let text = |(name, value): (&String, &ByteString)| format!("{name}={}", String::from_utf8_lossy(&value.0));
            secret.data.unwrap().iter().map(text).collect::<Vec<_>>().join(" ")
        };
        let entries = |mode, pair, authorities| entries_at("global.ahoi-system.svc", mode, pair, authorities);
        assert_eq!(
            entries_at("global-s1.ahoi-system.svc", Require, true, true),
            "sslmode=require uri=postgresql://h/d?sslmode=require",
            "the certificate does not cover this shard"
        );
        assert_eq!(
            entries(Require, true, true),
            "ca.crt=PEM sslmode=verify-full uri=postgresql://h/d?sslmode=verify-full"
        );
        assert_eq!(entries(Require, true, false), "sslmode=require uri=postgresql://h/d?sslmode=require");
        assert_eq!(entries(Prefer, true, true), "sslmode=prefer uri=postgresql://h/d?sslmode=prefer");
        assert_eq!(entries(Require, false, false), "uri=postgresql://h/d", "there is nothing to verify yet");
        assert_eq!(entries(Disable, true, true), "uri=postgresql://h/d");
    }
}
