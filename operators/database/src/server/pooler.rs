//! The login by which the poolers look up passwords on a server: made, replaced when that is due, and the former one closed
//! when nobody uses it.
//!
//! As with customers' logins, the Secret decides which one is in use, because writing it is the one step by which the
//! agents change over; the status follows. Every agent keeps a connection to each of its servers by the login it has, so
//! that the server itself knows who has not changed over yet.

use ahoi_api::{DatabaseServer, DatabaseServerStatus, PoolerLogin};
use ahoi_reconcile::{Error, EventType};
use jiff::Timestamp;
use kube::ResourceExt;
use postgres_protocol::escape::escape_identifier;
use serde::{Deserialize, Serialize};
use tracing::info;

use super::pooler_secret::{give, given};
use crate::context::Context;
use crate::postgres::prepare::{self, Facts, Poolers};
use crate::postgres::scram::Credentials;
use crate::postgres::server::{Failure, Login, ServerPool};
use crate::renewal::{self, Due, GRACE};

/// The names of the two logins. The server's uid is in them, because to a pooler the names of logins are one list for all
/// servers.
pub fn names(server_uid: &str) -> [String; 2] {
    let digits: String = server_uid.chars().filter(char::is_ascii_hexdigit).take(8).collect();
    ahoi_api::logins(&format!("ahoi_pooler_{}", digits.to_ascii_lowercase()))
}

/// Drops one of these logins. What it owns is nothing, and what it may do is granted in this database.
pub fn drop_login(login: &str) -> String {
    let role = escape_identifier(login);
    format!("DROP OWNED BY {role};\nDROP ROLE {role}")
}

/// The comment on the logins of a DatabaseServer, by which they are told apart from another cluster's once it is deleted.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// [`Cluster::id`](crate::postgres::ownership::Cluster).
    pub cluster: String,
    /// The uid of the DatabaseServer.
    pub server: String,
}

impl Mark {
    /// The comment. The same mark makes the same text.
    pub fn comment(&self) -> String {
        // A structure of strings always has a JSON form.
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// What it takes.
pub struct Pooler<'a> {
    pub context: &'a Context,
    pub server: &'a DatabaseServer,
    pub pool: &'a ServerPool,
    /// The names of the two logins.
    pub names: [String; 2],
}

impl Pooler<'_> {
    /// Makes the server what it has to be for the poolers, and says in the status which login they have.
    pub async fn prepare(&self, facts: Facts, status: &mut DatabaseServerStatus) -> Result<Facts, Error> {
        let (wanted, uid) = (self.server.spec.pooler_credentials.as_ref(), self.server.uid().unwrap_or_default());
        let known = status.pooler_login.take().filter(|known| self.names.contains(known));
        let login = match given(self.context, &self.pool.name, &self.names).await? {
            Some(login) => login,
            None => return self.replace(facts, status, known).await,
        };
        if known.as_ref() != Some(&login.name) {
            let before = status.pooler_credentials.as_ref();
            status.pooler_credentials = Some(match known {
                Some(former) => renewal::found(before, Some(former), Timestamp::now()),
                None => renewal::begun(wanted, before, None, Timestamp::now()),
            });
        }
        self.close_former(status).await?;
        let credentials = status.pooler_credentials.as_ref();
        let other_is_open = credentials.is_some_and(|credentials| credentials.previous_login.is_some());
        let due = renewal::due(wanted, credentials, &uid, Timestamp::now())?;

        let poolers = Poolers { other: self.other(&login.name), other_is_open, login, mark: self.mark() };
        let facts = prepare::prepare(self.pool, facts, &poolers).await?;
        if due == Due::Now && !other_is_open {
            return self.replace(facts, status, Some(poolers.login.name)).await;
        }
        status.pooler_login = Some(poolers.login.name);
        Ok(facts)
    }

    /// Gives the agents a login that they do not have, with a new password, once it is proved. The password need not be kept
    /// before the Secret has it: whoever dies on the way there begins with another one.
    async fn replace(
        &self,
        facts: Facts,
        status: &mut DatabaseServerStatus,
        former: Option<String>,
    ) -> Result<Facts, Error> {
        let name = former.as_ref().map_or_else(|| self.names[0].clone(), |former| self.other(former));
        let login = PoolerLogin { name, password: Credentials::generate()?.password };
        let poolers =
            Poolers { other: self.other(&login.name), other_is_open: former.is_some(), login, mark: self.mark() };
        let facts = prepare::prepare(self.pool, facts, &poolers).await?;
        let login = poolers.login;
        self.try_out(&login).await?;
        give(self.context, &self.pool.name, &login).await?;
        if let Some(former) = &former {
            let note = format!("the poolers' login {} takes the place of {former}", login.name);
            info!(server = self.pool.name, "{note}");
            self.context.platform.event(self.server, EventType::Normal, "CredentialsRotated", note);
        }
        let (wanted, known) = (self.server.spec.pooler_credentials.as_ref(), status.pooler_credentials.as_ref());
        status.pooler_credentials = Some(renewal::begun(wanted, known, former, Timestamp::now()));
        status.pooler_login = Some(login.name);
        Ok(facts)
    }

    /// Nobody is given a login that does not work.
    async fn try_out(&self, login: &PoolerLogin) -> Result<(), Error> {
        let tried = Login { username: login.name.clone(), password: login.password.clone() };
        let outcome = self.pool.log_in(&self.server.spec.admin_database, &tried).await;
        outcome.map_err(|failure| match failure {
            Failure::LoginRefused(why) => Error::structural(
                "PoolerLoginRefused",
                format!(
                    "DatabaseServer {} refuses the poolers' login {}: {why}; see its pg_hba.conf. The poolers keep what \
                     they have",
                    self.pool.name, login.name
                ),
            ),
            failure => failure.into_error(&self.pool.name),
        })
    }

    /// Lets go of the former login when nobody has had a connection by it at two looks in a row: an agent that was just
    /// connecting again at the one has one at the other.
    async fn close_former(&self, status: &mut DatabaseServerStatus) -> Result<(), Error> {
        let Some(credentials) = status.pooler_credentials.as_mut() else { return Ok(()) };
        let Some(former) = &credentials.previous_login else { return Ok(()) };
        let young = renewal::age(credentials, Timestamp::now()) < GRACE;
        let used = young || self.pool.is_used(former).await.map_err(|failure| failure.into_error(&self.pool.name))?;
        let was_used = !std::mem::replace(&mut self.pool.memory.lock().former_is_unused, !used);
        if used || was_used {
            return Ok(());
        }
        let note = format!("the poolers' former login {former} is closed: nothing uses it any more");
        info!(server = self.pool.name, "{note}");
        self.context.platform.event(self.server, EventType::Normal, "FormerLoginClosed", note);
        credentials.previous_login = None;
        Ok(())
    }

    fn mark(&self) -> String {
        let (cluster, server) = (self.context.cluster.id.clone(), self.server.uid().unwrap_or_default());
        Mark { cluster, server }.comment()
    }

    fn other(&self, name: &str) -> String {
        self.names[usize::from(self.names[0] == name)].clone()
    }
}
