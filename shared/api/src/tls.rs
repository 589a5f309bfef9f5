//! TLS of connections to PostgreSQL servers and to PgBouncer fleets.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::LocalRef;

/// TLS of connections to a server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.caSecretRef) || self.mode in ['VerifyCa', 'VerifyFull']")
    .message("caSecretRef is for the modes VerifyCa and VerifyFull: no other looks at the certificate"))]
pub struct ServerTls {
    /// TLS mode, as sslmode of libpq (<https://www.postgresql.org/docs/17/libpq-ssl.html>). Default Prefer.
    #[serde(default)]
    pub mode: TlsMode,
    /// Secret in the namespace of Ahoi with the CA certificates (PEM) of the server in the key `ca.crt`. Required for
    /// servers that a PgBouncer fleet verifies. A change takes effect immediately, and workers get it in their binding
    /// Secrets. Unset: the CA certificates of the system; the image of Ahoi has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_secret_ref: Option<LocalRef>,
}

/// TLS mode, as sslmode of libpq.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum TlsMode {
    /// Never use TLS.
    Disable,
    /// Use TLS if the server offers it.
    #[default]
    Prefer,
    /// Use TLS, without verifying the certificate.
    Require,
    /// Use TLS, and verify that the certificate is signed by a trusted CA. The database controller also verifies the
    /// host name in this mode; applications and pgbouncer do not.
    VerifyCa,
    /// Use TLS, and verify that the certificate is signed by a trusted CA and covers the host name.
    VerifyFull,
}

impl TlsMode {
    /// As libpq and pgbouncer call it.
    #[must_use]
    pub fn sslmode(self) -> &'static str {
        match self {
            TlsMode::Disable => "disable",
            TlsMode::Prefer => "prefer",
            TlsMode::Require => "require",
            TlsMode::VerifyCa => "verify-ca",
            TlsMode::VerifyFull => "verify-full",
        }
    }

    /// Whether the certificate is looked at.
    #[must_use]
    pub fn verifies(self) -> bool {
        self >= TlsMode::VerifyCa
    }
}

/// TLS of a PgBouncer fleet.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FleetTls {
    /// TLS of connections from clients to pgbouncer.
    #[serde(default)]
    pub client: ClientTls,
    /// TLS of connections from pgbouncer to servers.
    #[serde(default)]
    pub server: FleetServerTls,
}

/// TLS of connections from clients to pgbouncer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.mode == 'Disable' || has(self.secretRef)")
    .message("TLS needs a certificate: name a Secret of the type kubernetes.io/tls in secretRef"))]
pub struct ClientTls {
    /// Whether clients use TLS. Default Disable.
    #[serde(default)]
    pub mode: ClientTlsMode,
    /// Secret of the type kubernetes.io/tls in the namespace of the fleet, as cert-manager writes it: `tls.crt` and
    /// `tls.key` of a certificate for the host name of the fleet (`status.host`) and of each shard (`status.shards`),
    /// and `ca.crt`, which clients get in their binding Secrets. A changed certificate is loaded without a restart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<LocalRef>,
}

/// Whether clients use TLS: client_tls_sslmode of pgbouncer (<https://www.pgbouncer.org/config.html>).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ClientTlsMode {
    /// TLS is off.
    #[default]
    Disable,
    /// TLS is possible. pgbouncer treats it as Prefer.
    Allow,
    /// TLS is possible, and the binding Secrets have sslmode=prefer.
    Prefer,
    /// TLS is required: a connection without TLS is refused.
    Require,
}

impl ClientTlsMode {
    /// As pgbouncer calls it.
    #[must_use]
    pub fn sslmode(self) -> &'static str {
        match self {
            ClientTlsMode::Disable => "disable",
            ClientTlsMode::Allow => "allow",
            ClientTlsMode::Prefer => "prefer",
            ClientTlsMode::Require => "require",
        }
    }
}

/// TLS of connections from pgbouncer to servers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FleetServerTls {
    /// TLS mode for all servers, because pgbouncer has one setting for all. Default Prefer. A pool is not routed to a
    /// server that demands more than this mode, or that a verifying fleet cannot verify. The CA certificates are those
    /// of all DatabaseServers.
    #[serde(default)]
    pub mode: TlsMode,
}
