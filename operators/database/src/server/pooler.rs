//! The login by which poolers look up passwords on a server: created, rotated when due, and the former one closed when no pooler
//! uses it. Every agent keeps a connection to each of its servers by its login, so the sessions on the server show which agents
//! have not changed over yet.

use ahoi_api::{DatabaseServer, DatabaseServerStatus, EventReason, PoolerLogin, Reason};
use ahoi_reconcile::{Error, EventType};
use jiff::Timestamp;
use kube::ResourceExt;
use postgres_protocol::escape::escape_identifier;
use serde::{Deserialize, Serialize};

use super::pooler_secret::{publish, published};
use crate::context::Context;
use crate::memory::Instance;
use crate::postgres::prepare::{self, Facts, Poolers};
use crate::postgres::scram::Credentials;
use crate::postgres::server::Postgres;
use crate::rotation::{self, Due, LoginPair, NewLogin};

/// The names of the two logins. They contain the uid of the DatabaseServer, because a pooler has one list of logins for all servers.
pub fn names(server_uid: &str) -> [String; 2] {
    let digits: String = server_uid.chars().filter(char::is_ascii_hexdigit).take(8).collect();
    ahoi_api::logins(&format!("ahoi_pooler_{}", digits.to_ascii_lowercase()))
}

/// The statements that drop one of these logins. It owns nothing, and its privileges are in this database.
pub fn drop_login(login: &str) -> String {
    let role = escape_identifier(login);
    format!("DROP OWNED BY {role};\nDROP ROLE {role}")
}

/// The comment on the logins of a DatabaseServer, which distinguishes them from those of another cluster after its deletion.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoginOwner {
    /// [`Cluster::id`](crate::postgres::ownership::Cluster).
    pub cluster: String,
    /// The uid of the DatabaseServer.
    pub server: String,
}

impl LoginOwner {
    /// The comment; always the same text for the same owner.
    pub fn comment(&self) -> String {
        // Serializing strings does not fail.
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// The poolers' logins on one server.
pub struct Pooler<'a> {
    /// What both controllers share.
    pub context: &'a Context,
    /// The DatabaseServer.
    pub server: &'a DatabaseServer,
    /// Its PostgreSQL.
    pub instance: &'a Instance,
    /// Names of the two logins.
    pub names: [String; 2],
    /// State of the server.
    pub facts: Facts,
}

impl Pooler<'_> {
    /// Prepares the server for poolers, and records their login in the status.
    pub async fn prepare(&self, status: &mut DatabaseServerStatus) -> Result<Facts, Error> {
        let (request, now) = (self.server.spec.pooler_credentials.as_ref(), Timestamp::now());
        let known = status.pooler_login.take().filter(|known| self.names.contains(known));
        let Some(login) = published(self.context, &self.instance.name, &self.names).await? else {
            return self.rotate(status, known).await;
        };
        let recorded = status.pooler_credentials.as_ref();
        let mut credentials = rotation::in_use(request, known.as_deref(), &login.name, recorded, now);
        if let Some(former) = credentials.previous_login.clone()
            && rotation::kept_open(self, &former, &credentials, now).await?.is_none()
        {
            rotation::record_closed(self, &former);
            credentials.previous_login = None;
        }
        let other_is_open = credentials.previous_login.is_some();
        let due = rotation::due(request, Some(&credentials), &self.server.uid().unwrap_or_default(), now)?;
        status.pooler_credentials = Some(credentials);
        let name = login.name.clone();
        let facts = self.open(login, other_is_open).await?;
        if due == Due::Now && !other_is_open {
            return Pooler { facts, names: self.names.clone(), ..*self }.rotate(status, Some(name)).await;
        }
        status.pooler_login = Some(name);
        Ok(facts)
    }

    /// Publishes the other login with a new password, or the first one.
    async fn rotate(&self, status: &mut DatabaseServerStatus, former: Option<String>) -> Result<Facts, Error> {
        let name = former.as_ref().map_or_else(|| self.names[0].clone(), |former| self.other(former));
        let next = NewLogin { name, credentials: Credentials::generate()? };
        let (facts, ()) = rotation::replace(self, former.as_deref(), &next).await?;
        let (request, known) = (self.server.spec.pooler_credentials.as_ref(), status.pooler_credentials.as_ref());
        status.pooler_credentials = Some(rotation::begun(request, known, former, Timestamp::now()));
        status.pooler_login = Some(next.name);
        Ok(facts)
    }

    /// Prepares the server, with this login open.
    async fn open(&self, login: PoolerLogin, other_is_open: bool) -> Result<Facts, Error> {
        let (cluster, server) = (self.context.cluster.id.clone(), self.server.uid().unwrap_or_default());
        let owner = LoginOwner { cluster, server }.comment();
        let poolers = Poolers { other: self.other(&login.name), other_is_open, login, owner };
        prepare::prepare(&self.instance.postgres, self.facts.clone(), &poolers).await
    }

    fn other(&self, name: &str) -> String {
        self.names[usize::from(self.names[0] == name)].clone()
    }
}

impl LoginPair for Pooler<'_> {
    type Created = Facts;
    type Published = ();

    const NAME: &'static str = "pooler login";

    fn postgres(&self) -> &Postgres {
        &self.instance.postgres
    }

    fn tried_in(&self) -> Option<&str> {
        Some(&self.server.spec.admin_database)
    }

    fn refused(&self, login: &str, why: &str) -> Error {
        Error::structural(
            Reason::PoolerLoginRefused,
            format!(
                "DatabaseServer {} refuses the pooler login {login}: {why}. Allow it in pg_hba.conf; the poolers keep their \
                 present login until then",
                self.instance.name
            ),
        )
    }

    async fn create(&self, former: Option<&str>, next: &NewLogin) -> Result<Facts, Error> {
        self.open(entry(next), former.is_some()).await
    }

    async fn publish(&self, next: &NewLogin) -> Result<(), Error> {
        publish(self.context, &self.instance.name, &entry(next)).await
    }

    /// An agent that was reconnecting during one sweep has a session during the next.
    fn may_close(&self, is_unused: bool) -> bool {
        let was_unused = std::mem::replace(&mut self.instance.memory.lock().former_is_unused, is_unused);
        is_unused && was_unused
    }

    fn record_event(&self, type_: EventType, reason: EventReason, note: String) {
        self.context.platform.event(self.server, type_, reason, note);
    }
}

/// The login as its Secret stores it.
fn entry(login: &NewLogin) -> PoolerLogin {
    PoolerLogin { name: login.name.clone(), password: login.credentials.password.clone() }
}
