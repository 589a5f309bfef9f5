//! TLS of clients, configured by `sslmode` and `ca.crt` of a binding Secret.

use std::sync::Arc;

use anyhow::{Context as _, Result, bail, ensure};
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio_postgres_rustls::MakeRustlsConnect;
use tokio_rustls::TlsConnector;

/// SSLRequest message of PostgreSQL's protocol.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];

/// Returns a connector for tokio-postgres that trusts only these CAs (PEM).
pub fn connector(authorities: &str) -> Result<MakeRustlsConnect> {
    Ok(MakeRustlsConnect::new(config(authorities)?))
}

/// Returns options for sqlx. It connects to an address, because only pods resolve the host name, so it cannot verify the name.
/// tokio-postgres does.
pub fn sqlx_options(options: PgConnectOptions, sslmode: &str) -> Result<PgConnectOptions> {
    Ok(options.ssl_mode(match sslmode {
        "" | "prefer" | "disable" => PgSslMode::Disable,
        "require" | "verify-ca" | "verify-full" => PgSslMode::Require,
        other => bail!("the Secret's sslmode is {other}"),
    }))
}

/// Returns the certificate of the server at `address`, verified for `host` by the CAs.
pub async fn shown(address: &str, port: u16, host: &str, authorities: &str) -> Result<CertificateDer<'static>> {
    let mut stream = TcpStream::connect((address, port)).await?;
    stream.write_all(&SSL_REQUEST).await?;
    ensure!(stream.read_u8().await? == b'S', "no TLS at {host}");
    let connector = TlsConnector::from(Arc::new(config(authorities)?));
    let session = connector.connect(ServerName::try_from(host.to_owned())?, stream).await?;
    let shown =
        session.get_ref().1.peer_certificates().and_then(<[_]>::first).context("the server sent no certificate")?;
    Ok(shown.clone().into_owned())
}

fn config(authorities: &str) -> Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(authorities.as_bytes()) {
        roots.add(certificate?)?;
    }
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    Ok(config.with_safe_default_protocol_versions()?.with_root_certificates(roots).with_no_client_auth())
}

/// CA and a certificate that it issued, as cert-manager writes them.
#[derive(Clone)]
pub struct Issued {
    /// CA certificate (PEM).
    pub authority: String,
    /// Certificate (PEM).
    pub certificate: String,
    /// Private key (PEM).
    pub key: String,
}

/// Issues a certificate for these host names with the script that the installation uses.
pub async fn issue(hosts: &[&str]) -> Result<Issued> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/cluster/issue-certificate");
    let folder = std::env::temp_dir().join(format!("ahoi-tls-{}-{:?}", std::process::id(), std::time::Instant::now()));
    let folder = folder.to_string_lossy().replace([' ', '{', '}', ':', ','], "");
    let output = Command::new(script).arg(&folder).args(hosts).output().await?;
    ensure!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
    let read = |name: &str| std::fs::read_to_string(format!("{folder}/{name}"));
    let issued = Issued { authority: read("ca.crt")?, certificate: read("tls.crt")?, key: read("tls.key")? };
    std::fs::remove_dir_all(&folder)?;
    Ok(issued)
}
