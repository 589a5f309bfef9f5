//! What TLS means to a pool: whether its fleet and its server go together, and what its clients verify the fleet by.

use ahoi_api::{ClientTlsMode, DatabaseServer, PgBouncer, TlsMode};
use ahoi_pgbouncer::certificates::AUTHORITIES;
use ahoi_reconcile::Error;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt;

use super::resolve::Resolved;

/// pgbouncer has one mode for all servers. That of the fleet must not undercut what a server demands, nor demand what it
/// cannot give.
pub fn check(server: &DatabaseServer, fleet: &PgBouncer) -> Result<(), Error> {
    let (demanded, given) = (server.spec.tls.mode, fleet.spec.tls.server.mode);
    let (server_name, fleet_name) = (server.name_any(), fleet.name_any());
    let problem = if demanded >= TlsMode::Require && given < demanded {
        format!(
            "the DatabaseServer {server_name} demands TLS of the mode {demanded:?}, and the PgBouncer {fleet_name} gives \
             {given:?}: set the PgBouncer's spec.tls.server.mode to {demanded:?}"
        )
    } else if given >= TlsMode::Require && demanded == TlsMode::Disable {
        format!(
            "the DatabaseServer {server_name} has no TLS (its spec.tls.mode is Disable), and the PgBouncer {fleet_name} \
             demands it of all servers (its spec.tls.server.mode is {given:?}): change one of them"
        )
    } else if given.verifies() && server.spec.tls.ca_secret_ref.is_none() {
        format!(
            "the PgBouncer {fleet_name} verifies the certificates of servers, and the DatabaseServer {server_name} names no \
             authorities for it: set the DatabaseServer's spec.tls.mode to {given:?}, and its spec.tls.caSecretRef"
        )
    } else {
        return Ok(());
    };
    Err(Error::structural("TlsMismatch", problem))
}

/// The Secret with what clients need to connect as the fleet demands, once the fleet can show a certificate.
pub fn secured(mut secret: Secret, resolved: &Resolved) -> Secret {
    let (mode, certificates) = (resolved.fleet.spec.tls.client.mode, &resolved.certificates);
    if mode == ClientTlsMode::Disable || certificates.pair.is_none() {
        return secret;
    }
    let data = secret.data.get_or_insert_default();
    let host = data.get("host").map(|host| String::from_utf8_lossy(&host.0)).unwrap_or_default();
    let verifies = mode == ClientTlsMode::Require && certificates.is_verifiable_at(&host);
    let authorities = certificates.client_authorities.as_ref().filter(|_| verifies);
    let sslmode = match (mode, authorities) {
        (ClientTlsMode::Require, Some(_)) => "verify-full",
        // A name that ends with .svc is in no certificate that everybody trusts; and the fleet says of which shards its
        // certificate is not for.
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
    use std::sync::Arc;

    use ahoi_api::PgBouncerSpec;
    use ahoi_pgbouncer::certificates::{Material, Pair};
    use serde_json::json;

    use super::*;
    use crate::pool::resolve::Credentials;

    const GOOD: &str = include_str!("../../../certificates/testdata/good.crt");

    fn server(tls: serde_json::Value) -> DatabaseServer {
        let spec = json!({"host": "pg", "adminSecretRef": {"namespace": "ahoi-system", "name": "pg-1"}, "tls": tls});
        DatabaseServer::new("pg-1", serde_json::from_value(spec).unwrap())
    }

    fn fleet(tls: serde_json::Value) -> PgBouncer {
        PgBouncer::new(
            "global",
            PgBouncerSpec { tls: serde_json::from_value(tls).unwrap(), ..PgBouncerSpec::default() },
        )
    }

    #[test]
    fn a_fleet_and_a_server_go_together_or_it_is_said_why_not() {
        let ca = json!({"name": "ca"});
        let verified = json!({"mode": "VerifyFull", "caSecretRef": ca});
        let judge = |server_tls: &serde_json::Value, mode: &str| {
            let outcome = check(&server(server_tls.clone()), &fleet(json!({"server": {"mode": mode}})));
            outcome.map_or_else(|error| error.to_string(), |()| "ok".to_owned())
        };
        for (server, mode) in [(json!({}), "Prefer"), (json!({"mode": "Require"}), "Require"), (json!({}), "Require")] {
            assert_eq!(judge(&server, mode), "ok", "{server} {mode}");
        }
        for (server, mode) in
            [(verified.clone(), "VerifyFull"), (json!({"mode": "VerifyCa", "caSecretRef": ca}), "VerifyFull")]
        {
            assert_eq!(judge(&server, mode), "ok", "{server} {mode}");
        }
        insta::assert_snapshot!(judge(&json!({"mode": "Require"}), "Prefer"), @"the DatabaseServer pg-1 demands TLS of the mode Require, and the PgBouncer global gives Prefer: set the PgBouncer's spec.tls.server.mode to Require");
        insta::assert_snapshot!(judge(&verified, "VerifyCa"), @"the DatabaseServer pg-1 demands TLS of the mode VerifyFull, and the PgBouncer global gives VerifyCa: set the PgBouncer's spec.tls.server.mode to VerifyFull");
        insta::assert_snapshot!(judge(&json!({"mode": "Disable"}), "Require"), @"the DatabaseServer pg-1 has no TLS (its spec.tls.mode is Disable), and the PgBouncer global demands it of all servers (its spec.tls.server.mode is Require): change one of them");
        insta::assert_snapshot!(judge(&json!({"mode": "Prefer"}), "VerifyFull"), @"the PgBouncer global verifies the certificates of servers, and the DatabaseServer pg-1 names no authorities for it: set the DatabaseServer's spec.tls.mode to VerifyFull, and its spec.tls.caSecretRef");
    }

    #[test]
    fn what_clients_are_told() {
        let told_at = |host: &str, mode: &str, pair: bool, authorities: bool| {
            let fleet = fleet(json!({"client": {"mode": mode, "secretRef": {"name": "tls"}}}));
            let pair = pair.then(|| Pair { certificate: GOOD.into(), key: "K".into() });
            let client_authorities = authorities.then(|| "PEM".to_owned());
            let resolved = Resolved {
                former: None,
                fleet: Arc::new(fleet),
                server: Arc::new(server(json!({}))),
                database: "d".into(),
                credentials: Credentials { username: "u".into(), password: "p".into() },
                certificates: Material { pair, client_authorities, server_authorities: None },
            };
            let data = [("host", host), ("uri", "postgresql://h/d")];
            let data = data.map(|(key, text)| (key.to_owned(), ByteString(text.as_bytes().to_vec())));
            let mut secret = secured(Secret { data: Some(data.into()), ..Secret::default() }, &resolved);
            secret.data.get_or_insert_default().remove("host");
            let text = |(name, value): (&String, &ByteString)| format!("{name}={}", String::from_utf8_lossy(&value.0));
            secret.data.unwrap().iter().map(text).collect::<Vec<_>>().join(" ")
        };
        let told = |mode, pair, authorities| told_at("global.ahoi-system.svc", mode, pair, authorities);
        assert_eq!(
            told_at("global-s1.ahoi-system.svc", "Require", true, true),
            "sslmode=require uri=postgresql://h/d?sslmode=require",
            "nobody is told to verify what cannot be"
        );
        assert_eq!(
            told("Require", true, true),
            "ca.crt=PEM sslmode=verify-full uri=postgresql://h/d?sslmode=verify-full"
        );
        assert_eq!(told("Require", true, false), "sslmode=require uri=postgresql://h/d?sslmode=require");
        assert_eq!(told("Prefer", true, true), "sslmode=prefer uri=postgresql://h/d?sslmode=prefer");
        assert_eq!(told("Require", false, false), "uri=postgresql://h/d", "there is nothing to verify yet");
        assert_eq!(told("Disable", true, true), "uri=postgresql://h/d");
    }
}
