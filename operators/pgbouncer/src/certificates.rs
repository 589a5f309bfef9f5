//! The certificates of PgBouncer fleets.
//!
//! A platform team or cert-manager writes certificates into Secrets of any name. The controller of PgBouncers validates them
//! and copies them into one Secret of a fixed name, the only one that agents may read. So an invalid certificate never
//! reaches pgbouncer, and a process that starts later gets the last valid one.

use std::collections::BTreeMap;
use std::sync::Arc;

use ahoi_api::{ClientTlsMode, FleetTls, TlsMode};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use rustls::client::danger::ServerCertVerifier as _;
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, RootCertStore};

/// Key of the certificate in a Secret of type kubernetes.io/tls.
pub const CERTIFICATE: &str = "tls.crt";
/// Key of the private key.
pub const KEY: &str = "tls.key";
/// Key of the authorities.
pub const AUTHORITIES: &str = "ca.crt";
/// Key of the servers' authorities in the Secret of the agents.
const SERVERS: &str = "servers.crt";

/// A certificate with its private key.
#[derive(Clone, PartialEq, Eq)]
pub struct Pair {
    /// The chain (PEM), the fleet's own certificate first.
    pub certificate: String,
    /// Its private key (PEM).
    pub key: String,
}

impl std::fmt::Debug for Pair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pair").finish_non_exhaustive()
    }
}

/// The certificates of one fleet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Material {
    /// Certificate that pgbouncer presents to its clients.
    pub pair: Option<Pair>,
    /// Authorities that clients verify it with (PEM).
    pub client_authorities: Option<String>,
    /// Authorities that pgbouncer verifies servers with (PEM).
    pub server_authorities: Option<String>,
}

impl Material {
    /// The certificates of `fleet` in the Secret of the agents.
    #[must_use]
    pub fn read(secret: Option<&Secret>, fleet: &str) -> Self {
        let entry = |name: &str| secret.and_then(|secret| text(secret, &format!("{fleet}.{name}")));
        Material {
            pair: entry(CERTIFICATE).zip(entry(KEY)).map(|(certificate, key)| Pair { certificate, key }),
            client_authorities: entry(AUTHORITIES),
            server_authorities: entry(SERVERS),
        }
    }

    /// Whether clients that connect to `host` can verify the fleet.
    #[must_use]
    pub fn is_verifiable_at(&self, host: &str) -> bool {
        let verified = self.pair.as_ref().filter(|_| self.client_authorities.is_some());
        verified.is_some_and(|pair| is_for(&pair.certificate, host))
    }

    /// The entries for the Secret of the agents.
    #[must_use]
    pub fn entries(&self, fleet: &str) -> BTreeMap<String, ByteString> {
        let pair = self.pair.as_ref();
        let entries = [
            (CERTIFICATE, pair.map(|pair| &pair.certificate)),
            (KEY, pair.map(|pair| &pair.key)),
            (AUTHORITIES, self.client_authorities.as_ref()),
            (SERVERS, self.server_authorities.as_ref()),
        ];
        let entry = |(name, text): (&str, Option<&String>)| {
            Some((format!("{fleet}.{name}"), ByteString(text?.as_bytes().to_vec())))
        };
        entries.into_iter().filter_map(entry).collect()
    }
}

/// The fleet of an entry in that Secret.
#[must_use]
pub fn fleet_of(entry: &str) -> Option<&str> {
    [CERTIFICATE, KEY, AUTHORITIES, SERVERS].iter().find_map(|name| entry.strip_suffix(name)?.strip_suffix('.'))
}

/// The text under a key of a Secret; none if it is empty.
#[must_use]
pub fn text(secret: &Secret, key: &str) -> Option<String> {
    let bytes = secret.data.as_ref()?.get(key)?;
    String::from_utf8(bytes.0.clone()).ok().filter(|text| !text.trim().is_empty())
}

/// The TLS settings of pgbouncer, with the certificates that they need.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tls {
    /// TLS mode of clients.
    pub client: ClientTlsMode,
    /// Certificate for clients; set unless `client` is Disable.
    pub pair: Option<Pair>,
    /// TLS mode of servers.
    pub server: TlsMode,
    /// Authorities of servers; set if `server` verifies certificates.
    pub server_authorities: Option<String>,
}

impl Tls {
    /// The settings of a fleet.
    ///
    /// # Errors
    /// When a certificate that they need is missing.
    pub fn of(spec: &FleetTls, material: &Material) -> Result<Self, &'static str> {
        let (client, server) = (spec.client.mode, spec.server.mode);
        let pair = material.pair.clone().filter(|_| client != ClientTlsMode::Disable);
        let server_authorities = material.server_authorities.clone().filter(|_| server.verifies());
        if client != ClientTlsMode::Disable && pair.is_none() {
            return Err("the certificate for spec.tls.client is missing");
        }
        if server.verifies() && server_authorities.is_none() {
            return Err(
                "spec.tls.server verifies certificates, and no DatabaseServer has authorities (spec.tls.caSecretRef)",
            );
        }
        Ok(Tls { client, pair, server, server_authorities })
    }
}

/// The certificate in a Secret, if clients accept it that connect to one of `hosts` and trust its authorities.
///
/// # Errors
/// The problem, as the predicate of a sentence. It contains no time, so that the text stays the same.
pub fn pair(secret: &Secret, hosts: &[String]) -> Result<Pair, String> {
    let entry = |key: &str| text(secret, key).ok_or_else(|| format!("has no {key}"));
    let pair = Pair { certificate: entry(CERTIFICATE)?, key: entry(KEY)? };
    let provider = Arc::new(ring::default_provider());
    let chain = chain(&pair.certificate).ok_or_else(|| format!("has no certificate (PEM) in {CERTIFICATE}"))?;
    let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes())
        .map_err(|_| format!("has no private key (PEM, without a passphrase) in {KEY}"))?;
    let key = provider.key_provider.load_private_key(key);
    let key = key.map_err(|_| format!("has a private key of an unsupported type in {KEY}"))?;
    let certified = CertifiedKey::new(chain, key);
    certified.keys_match().map_err(|_| format!("has a {KEY} that does not belong to its {CERTIFICATE}"))?;
    if let Some(pem) = text(secret, AUTHORITIES) {
        let roots = authorities(&pem).ok_or_else(|| format!("has no certificates (PEM) in {AUTHORITIES}"))?;
        let host = hosts.iter().find(|host| is_for(&pair.certificate, host)).or(hosts.first());
        verify(&certified.cert, roots, provider, host.map(String::as_str).unwrap_or_default())?;
    }
    Ok(pair)
}

/// Whether a certificate (PEM, the first of its chain) covers the host name.
#[must_use]
pub fn is_for(certificate: &str, host: &str) -> bool {
    let own = chain(certificate).and_then(|chain| chain.into_iter().next());
    let (Some(own), Ok(name)) = (own, ServerName::try_from(host)) else { return false };
    ParsedCertificate::try_from(&own).is_ok_and(|own| verify_server_name(&own, &name).is_ok())
}

/// The authorities of a text (PEM); none if it has none, or an invalid one.
#[must_use]
pub fn authorities(pem: &str) -> Option<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for certificate in chain(pem)? {
        roots.add(certificate).ok()?;
    }
    Some(roots)
}

/// The certificates of a text (PEM); none if it has none, or an invalid one.
#[must_use]
pub fn chain(pem: &str) -> Option<Vec<CertificateDer<'static>>> {
    let chain: Vec<_> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<_, _>>().ok()?;
    (!chain.is_empty()).then_some(chain)
}

fn verify(
    chain: &[CertificateDer<'static>],
    roots: RootCertStore,
    provider: Arc<CryptoProvider>,
    host: &str,
) -> Result<(), String> {
    use CertificateError::{
        BadSignature, Expired, ExpiredContext, NotValidForName, NotValidForNameContext, NotValidYet,
        NotValidYetContext, UnknownIssuer,
    };
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build();
    let verifier = verifier.map_err(|error| format!("cannot be verified: {error}"))?;
    let name = ServerName::try_from(host.to_owned()).map_err(|_| format!("cannot cover the name {host}"))?;
    let Some((own, others)) = chain.split_first() else { return Err("is empty".to_owned()) };
    let outcome = verifier.verify_server_cert(own, others, &name, &[], UnixTime::now());
    outcome.map(drop).map_err(|error| match error {
        // If another authority has the same name, the signature does not match.
        rustls::Error::InvalidCertificate(UnknownIssuer | BadSignature) => {
            format!("has a certificate that is not signed by the authorities in its {AUTHORITIES}")
        }
        rustls::Error::InvalidCertificate(NotValidForName | NotValidForNameContext { .. }) => {
            format!("has a certificate that does not cover {host}, which clients connect to")
        }
        rustls::Error::InvalidCertificate(Expired | ExpiredContext { .. }) => {
            "has a certificate that has expired".to_owned()
        }
        rustls::Error::InvalidCertificate(NotValidYet | NotValidYetContext { .. }) => {
            "has a certificate that is not valid yet".to_owned()
        }
        rustls::Error::InvalidCertificate(other) => format!("has a certificate that clients refuse: {other:?}"),
        other => format!("has a certificate that clients refuse: {other}"),
    })
}

#[cfg(test)]
mod tests;
