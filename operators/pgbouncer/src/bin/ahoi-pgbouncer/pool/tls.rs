//! How the clients of a pool verify its PgBouncer fleet; pure.

use ahoi_api::ClientTlsMode;
use ahoi_api::binding::BindingData;
use ahoi_pgbouncer::certificates::Material;

/// Adds the TLS settings of clients to the binding, once the fleet has a certificate.
pub fn secured(binding: BindingData, mode: ClientTlsMode, certificates: &Material) -> BindingData {
    if mode == ClientTlsMode::Disable || certificates.pair.is_none() {
        return binding;
    }
    let verifies = mode == ClientTlsMode::Require && certificates.is_verifiable_at(&binding.host);
    let ca = certificates.client_authorities.clone().filter(|_| verifies);
    let sslmode = match (mode, &ca) {
        (ClientTlsMode::Require, Some(_)) => "verify-full",
        // No public authority signs a name that ends with .svc; and the fleet's status lists the shards that its
        // certificate does not cover.
        (ClientTlsMode::Require, None) => "require",
        _ => "prefer",
    };
    BindingData { sslmode: Some(sslmode.to_owned()), ca, ..binding }
}

#[cfg(test)]
mod tests {
    use ahoi_api::binding;
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
            let binding = BindingData { host: host.to_owned(), database: "d".to_owned(), ..BindingData::default() };
            let data = secured(binding, mode, &certificates).encode();
            let text = |name: &&str| Some(format!("{name}={}", binding::text(&data, name)?));
            let shown: Vec<_> = [binding::CA, binding::SSLMODE, binding::URI].iter().filter_map(text).collect();
            shown.join(" ").replace(&format!(":@{host}:0"), "h")
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
