//! Connections of the agent to a PostgreSQL server.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ahoi_api::TlsMode;
use ahoi_pgbouncer::hold::Endpoint;
use ahoi_pgbouncer::trust;
use anyhow::Result;
use tokio::time::timeout;
use tokio_postgres::config::SslMode;
use tokio_postgres::{Config, SimpleQueryMessage};
use tokio_postgres_rustls::MakeRustlsConnect;
use tokio_util::task::AbortOnDropHandle;

/// How long a lookup may take, its login included.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(2);

/// How to connect, without a login.
pub fn config(endpoint: &Endpoint) -> Config {
    let mut config = Config::new();
    config.host(&endpoint.host).port(endpoint.port).dbname(&endpoint.database).application_name("ahoi-pgbouncer-agent");
    config.ssl_mode(match endpoint.tls {
        TlsMode::Disable => SslMode::Disable,
        TlsMode::Prefer => SslMode::Prefer,
        _ => SslMode::Require,
    });
    config
}

/// The certificates that are trusted.
pub fn tls(endpoint: &Endpoint) -> Result<MakeRustlsConnect> {
    Ok(MakeRustlsConnect::new(trust::server(endpoint.tls, endpoint.authorities.as_deref())?))
}

/// The verifiers of these logins, of those that the server has. The error is the same at each attempt that fails alike.
pub async fn look_up(endpoint: &Endpoint, logins: &BTreeSet<String>) -> Result<BTreeMap<String, String>, String> {
    match timeout(LOOKUP_TIMEOUT, ask(endpoint, logins)).await {
        Ok(Ok(found)) => Ok(found),
        Ok(Err(error)) => Err(format!("{error:#}")),
        Err(_) => Err(format!("no answer within {} s", LOOKUP_TIMEOUT.as_secs())),
    }
}

async fn ask(endpoint: &Endpoint, logins: &BTreeSet<String>) -> Result<BTreeMap<String, String>> {
    let mut config = config(endpoint);
    if let Some(login) = &endpoint.login {
        config.user(&login.name).password(&login.password);
    }
    let (client, connection) = config.connect(tls(endpoint)?).await?;
    let _connection = AbortOnDropHandle::new(tokio::spawn(connection));
    let mut found = BTreeMap::new();
    for message in client.simple_query(&query(logins)).await? {
        if let SimpleQueryMessage::Row(row) = message
            && let (Some(login), Some(verifier)) = (row.get(0), row.get(1))
        {
            found.insert(login.to_owned(), verifier.to_owned());
        }
    }
    Ok(found)
}

/// The names need no quoting: they were read from Secrets only if they consist of letters, digits and underscores.
fn query(logins: &BTreeSet<String>) -> String {
    let logins: Vec<String> = logins.iter().map(|login| format!("'{login}'")).collect();
    format!(
        "SELECT found.name, found.verifier FROM unnest(ARRAY[{}]) AS login, \
         LATERAL ahoi.pooler_lookup(login) AS found(name, verifier)",
        logins.join(", ")
    )
}
