//! Connections to PostgreSQL and pgbouncer over the network, as applications connect.

use std::collections::BTreeMap;
use std::pin::pin;
use std::time::Duration;

use anyhow::{Context as _, Result};
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::{Secret, Service};
use kube::Api;
use kube::runtime::{WatchStreamExt as _, watcher};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_postgres::config::SslMode;
use tokio_postgres::{Client, NoTls};

use crate::cluster::Cluster;
use crate::system::SYSTEM;
use crate::tls;

/// Connection parameters: the entries of a binding Secret.
#[derive(Clone)]
pub struct Login {
    /// Entries of the Secret.
    pub entries: BTreeMap<String, String>,
    address: String,
}

impl Cluster {
    /// Waits for the binding Secret `name` of a customer and returns it.
    pub async fn binding(&self, customer: &str, name: &str) -> Result<Login> {
        let secrets: Api<Secret> = self.of(&ahoi_api::namespace_of(customer));
        let secret = self.until(&secrets, name, "created", 60, |s: Option<&Secret>| s.is_some()).await?;
        let entries = entries(secret.context("the Secret was deleted")?)?;
        // Only pods resolve names of Services. The API server has the address.
        let host = entries.get("host").context("no host in the Secret")?;
        let mut parts = host.split('.');
        let (service, namespace) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        let address = self.address(namespace, service).await?;
        Ok(Login { entries, address })
    }

    /// Returns the binding for a direct connection to PostgreSQL.
    pub async fn direct(&self, customer: &str) -> Result<Login> {
        self.binding(customer, &format!("{customer}-database")).await
    }

    /// Returns the binding for a connection through the PgBouncer fleet.
    pub async fn pooled(&self, customer: &str) -> Result<Login> {
        self.binding(customer, &format!("{customer}-pool")).await
    }

    /// Connects through the fleet after a password change. Until clients with the former password are replaced, pgbouncer may
    /// refuse the login, so this retries for `seconds`.
    pub async fn pooled_again(&self, customer: &str, seconds: u64) -> Result<Client> {
        let again = async {
            loop {
                match self.pooled(customer).await?.connect().await {
                    Ok(client) => return anyhow::Ok(client),
                    // pgbouncer has no watch. The time-out around this loop bounds it.
                    Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
                }
            }
        };
        let waited = tokio::time::timeout(Duration::from_secs(seconds), again).await;
        waited.with_context(|| format!("no login of {customer} through the fleet within {seconds} s"))?
    }

    /// Keeps `login` up to date with its Secret, as the kubelet does with a mounted Secret.
    pub(crate) async fn mount(self, name: String, namespace: String, login: watch::Sender<Login>) {
        let secrets: Api<Secret> = self.of(&namespace);
        let named = watcher::Config::default().fields(&format!("metadata.name={name}"));
        let mut changes = pin!(watcher(secrets, named).default_backoff().applied_objects());
        while let Some(change) = changes.next().await {
            // While the API server is unreachable, the last content stays.
            if let Some(entries) = change.ok().and_then(|secret| entries(secret).ok()) {
                login.send_modify(|login| login.entries = entries);
            }
        }
    }

    /// Connects to `database` as the administrator of the demo's PostgreSQL.
    pub async fn admin(&self, database: &str) -> Result<Client> {
        self.administrator().await?.to_database(database).connect().await
    }

    /// Returns the login of the administrator of the demo's PostgreSQL.
    pub async fn administrator(&self) -> Result<Login> {
        let secrets: Api<Secret> = self.of(SYSTEM);
        let mut entries = entries(secrets.get("demo-postgres").await?)?;
        entries.insert("database".into(), "postgres".into());
        entries.insert("port".into(), "5432".into());
        Ok(Login { entries, address: self.address(SYSTEM, "demo-postgres").await? })
    }

    /// Returns the cluster IP of a Service.
    pub async fn address(&self, namespace: &str, service: &str) -> Result<String> {
        let services: Api<Service> = self.of(namespace);
        let found = services.get(service).await.with_context(|| format!("Service {namespace}/{service}"))?;
        found.spec.and_then(|s| s.cluster_ip).context("a Service without an address")
    }
}

impl Login {
    /// Returns an entry of the Secret, or an empty text.
    pub fn get(&self, entry: &str) -> &str {
        self.entries.get(entry).map(String::as_str).unwrap_or_default()
    }

    /// Cluster IP of the Service in the Secret.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Returns this login for another address.
    #[must_use]
    pub fn at(mut self, address: &str) -> Self {
        self.address = address.into();
        self
    }

    /// Returns this login for another database.
    #[must_use]
    pub fn to_database(mut self, database: &str) -> Self {
        self.entries.insert("database".into(), database.into());
        self
    }

    /// Connects.
    pub async fn connect(&self) -> Result<Client> {
        // The task ends with the client. Queries return its error.
        self.connect_watched().await.map(|(client, _)| client)
    }

    /// Connects. The task returns the error that ended the connection, which no query may have seen.
    pub async fn connect_watched(&self) -> Result<(Client, JoinHandle<Result<(), tokio_postgres::Error>>)> {
        let mut config = tokio_postgres::Config::new();
        config
            .port(self.get("port").parse().context("the port of the Secret")?)
            .user(self.get("username"))
            .password(self.get("password"))
            .dbname(self.get("database"))
            .connect_timeout(Duration::from_secs(10));
        if self.get("sslmode") == "verify-full" {
            // The certificate is verified for the host name, which only pods resolve.
            let address = self.address.parse().context("the Service's address")?;
            config.host(self.get("host")).hostaddr(address).ssl_mode(SslMode::Require);
            let (client, connection) = config.connect(tls::connector(self.get("ca.crt"))?).await?;
            return Ok((client, tokio::spawn(connection)));
        }
        let (client, connection) = config.host(&self.address).connect(NoTls).await?;
        Ok((client, tokio::spawn(connection)))
    }
}

fn entries(secret: Secret) -> Result<BTreeMap<String, String>> {
    let data = secret.data.unwrap_or_default();
    data.into_iter().map(|(key, value)| Ok((key, String::from_utf8(value.0)?))).collect()
}
