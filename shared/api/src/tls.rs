//! How connections are secured: to a PostgreSQL server, and to a fleet of pgbouncer.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::LocalRef;

/// How connections to a server are secured.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.caSecretRef) || self.mode in ['VerifyCa', 'VerifyFull']")
    .message("caSecretRef is for the modes VerifyCa and VerifyFull: no other looks at the certificate"))]
pub struct ServerTls {
    /// As libpq's sslmode (<https://www.postgresql.org/docs/17/libpq-ssl.html>).
    #[serde(default)]
    pub mode: TlsMode,
    /// The Secret, in the suite's namespace, whose key `ca.crt` has the authorities (PEM) that the server's certificate may
    /// come from. Unset: those of the system; the suite's own image has none. A server that is reached through a fleet that
    /// verifies needs it, for pgbouncer is told of no others. A changed one is used at once, and workers get it by their
    /// binding Secrets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_secret_ref: Option<LocalRef>,
}

/// libpq's sslmode.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum TlsMode {
    /// Never TLS.
    Disable,
    /// TLS where the server offers it.
    #[default]
    Prefer,
    /// TLS, whatever the certificate.
    Require,
    /// TLS, and the certificate comes from an authority that is trusted. (The database controller itself compares the host
    /// name in this mode as well; applications and pgbouncer do not.)
    VerifyCa,
    /// TLS, the certificate comes from an authority that is trusted, and it is for the host that was connected to.
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

/// How a fleet's connections are secured, on both its sides.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FleetTls {
    /// From clients to pgbouncer.
    #[serde(default)]
    pub client: ClientTls,
    /// From pgbouncer to the servers.
    #[serde(default)]
    pub server: FleetServerTls,
}

/// How connections from clients to pgbouncer are secured.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.mode == 'Disable' || has(self.secretRef)")
    .message("TLS needs a certificate: name a Secret of the type kubernetes.io/tls in secretRef"))]
pub struct ClientTls {
    /// Whether clients may, or have to, use TLS.
    #[serde(default)]
    pub mode: ClientTlsMode,
    /// The Secret of the type kubernetes.io/tls in the fleet's namespace: `tls.crt` and `tls.key` of a certificate for the
    /// fleet's address (status.host) and, where there are several shards, that of each (status.shards, host); and `ca.crt`,
    /// which clients get in their binding Secrets to verify it by. As cert-manager writes it. What is replaced in it is loaded
    /// without a restart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<LocalRef>,
}

/// Whether clients use TLS; pgbouncer's client_tls_sslmode (<https://www.pgbouncer.org/config.html>).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ClientTlsMode {
    /// They do not.
    #[default]
    Disable,
    /// They may. To pgbouncer the same as Prefer.
    Allow,
    /// They may, and those that find out by themselves do.
    Prefer,
    /// They have to: a connection without TLS is refused.
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

/// How connections from pgbouncer to servers are secured.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FleetServerTls {
    /// One mode for all servers: pgbouncer knows no other way. No pool is routed to a server that demands more than
    /// this, or that cannot be verified by a fleet that verifies. The authorities are those of all DatabaseServers.
    #[serde(default)]
    pub mode: TlsMode,
}
