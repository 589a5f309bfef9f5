//! TLS as a client of a binding has it: what the Secret's sslmode and `ca.crt` say.

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

/// PostgreSQL's SSLRequest.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];

/// For tokio-postgres: trusts the authorities (PEM) and nobody else.
pub fn connector(authorities: &str) -> Result<MakeRustlsConnect> {
    Ok(MakeRustlsConnect::new(config(authorities)?))
}

/// For sqlx. It connects to an address, for only pods can resolve the name, and so it cannot compare the name; the other
/// driver does.
pub fn sqlx_options(options: PgConnectOptions, sslmode: &str) -> Result<PgConnectOptions> {
    Ok(options.ssl_mode(match sslmode {
        "" | "prefer" | "disable" => PgSslMode::Disable,
        "require" | "verify-ca" | "verify-full" => PgSslMode::Require,
        other => bail!("the Secret's sslmode is {other}"),
    }))
}

/// The certificate that is shown at `address`, verified for `host` by the authorities.
pub async fn shown(address: &str, port: u16, host: &str, authorities: &str) -> Result<CertificateDer<'static>> {
    let mut stream = TcpStream::connect((address, port)).await?;
    stream.write_all(&SSL_REQUEST).await?;
    ensure!(stream.read_u8().await? == b'S', "no TLS at {host}");
    let connector = TlsConnector::from(Arc::new(config(authorities)?));
    let session = connector.connect(ServerName::try_from(host.to_owned())?, stream).await?;
    let shown = session.get_ref().1.peer_certificates().and_then(<[_]>::first).context("no certificate was shown")?;
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

/// An authority, and a certificate of its own, as cert-manager would write it.
#[derive(Clone)]
pub struct Issued {
    /// The authority (PEM).
    pub authority: String,
    /// The certificate (PEM).
    pub certificate: String,
    /// Its private key (PEM).
    pub key: String,
}

/// Makes them for these host names, with the script that the installation uses as well.
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
