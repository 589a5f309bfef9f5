//! Rotation of logins: one mechanism for the logins of customers and those of the poolers.
//!
//! Each of them is a pair, and a Secret publishes one of the two. A rotation creates the other login with a new password, tries it,
//! publishes it in one write, and closes the former login when no client uses it any more.
//!
//! The Secret decides which login is in use, because writing it is the one step by which clients change over. Before it, the next
//! login is only created, and creating it again does no harm; after it, the status follows. The process may die between any two
//! steps.

mod renewal;

use ahoi_api::{Credentials as Request, CredentialsStatus, EventReason};
use ahoi_reconcile::{Error, EventType};
use jiff::Timestamp;
use tracing::info;

pub use self::renewal::{Due, age, begun, due, losses, replaceable_at};
use self::renewal::{GRACE, found};
use crate::postgres::failure::Failure;
use crate::postgres::scram::Credentials;
use crate::postgres::server::{Login, Postgres};

/// A login with the credentials that it gets.
pub struct NewLogin {
    /// Name of the role.
    pub name: String,
    /// Its password and verifier.
    pub credentials: Credentials,
}

/// A pair of logins, of which a Secret publishes one.
pub trait LoginPair: Sync {
    /// Result of the creation of a login.
    type Created: Send;
    /// Result of its publication.
    type Published: Send;

    /// The pair in messages, for example "login".
    const NAME: &'static str;

    /// The server of the logins.
    fn postgres(&self) -> &Postgres;

    /// The database in which a new login is tried; none while the logins of the pair are closed.
    fn tried_in(&self) -> Option<&str>;

    /// The error while the server refuses a new login.
    fn refused(&self, login: &str, why: &str) -> Error;

    /// Creates the login, or gives it this password. The former one stays open.
    fn create(
        &self,
        former: Option<&str>,
        next: &NewLogin,
    ) -> impl Future<Output = Result<Self::Created, Error>> + Send;

    /// Publishes the login in one write, so that clients never read parts of it.
    fn publish(&self, next: &NewLogin) -> impl Future<Output = Result<Self::Published, Error>> + Send;

    /// What keeps the former login open, apart from its sessions on the server.
    fn kept_by(&self, _former: &str) -> Option<Kept> {
        None
    }

    /// Whether a login may be closed that is unused now.
    fn may_close(&self, is_unused: bool) -> bool {
        is_unused
    }

    /// Records an event on the object of the pair.
    fn record_event(&self, type_: EventType, reason: EventReason, note: String);
}

/// What keeps a former login open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kept {
    /// The rotation is recent: clients change over.
    Recent,
    /// The Secret of a ConnectionPool still has the former login.
    Unproved(String),
    /// Clients of a ConnectionPool use it.
    ConnectionPool(String),
    /// Sessions on the server use it.
    Sessions,
}

impl Kept {
    /// What keeps `former` open and what to do about it. Stable, so that the status is written once.
    pub fn explain(&self, former: &str) -> String {
        match self {
            Kept::Recent => format!("the former login {former} stays open while clients change over"),
            Kept::Unproved(name) => format!(
                "the former login {former} stays open because the Secret of ConnectionPool {name} still has it; the conditions of \
                 the ConnectionPool say why"
            ),
            Kept::ConnectionPool(name) => format!(
                "the former login {former} stays open while clients of ConnectionPool {name} use it: restart clients that do not \
                 read their Secret again"
            ),
            Kept::Sessions => format!(
                "the former login {former} stays open while it has sessions on the server (see pg_stat_activity): restart clients \
                 that do not read their Secret again"
            ),
        }
    }
}

/// The status of the credentials, if the Secret publishes `published` and the status has `known` as the login in use.
pub fn in_use(
    request: Option<&Request>,
    known: Option<&str>,
    published: &str,
    status: Option<&CredentialsStatus>,
    now: Timestamp,
) -> CredentialsStatus {
    match (known, status) {
        // The process died after it had published the login.
        (Some(known), _) if known != published => found(status, Some(known.to_owned()), now),
        (Some(_), Some(status)) => status.clone(),
        _ => begun(request, status, None, now),
    }
}

/// Creates a login, tries it and publishes it. A login that does not work is never published. The password need not be stored
/// before: after a crash the next attempt uses another one.
pub async fn replace<P: LoginPair>(
    pair: &P,
    former: Option<&str>,
    next: &NewLogin,
) -> Result<(P::Created, P::Published), Error> {
    let created = pair.create(former, next).await?;
    if let Some(database) = pair.tried_in() {
        let login = Login { username: next.name.clone(), password: next.credentials.password.clone() };
        pair.postgres().log_in(database, &login).await.map_err(|failure| match failure {
            Failure::LoginRefused(why) => pair.refused(&next.name, &why),
            failure => failure.into_error(&pair.postgres().name),
        })?;
    }
    let published = pair.publish(next).await?;
    if let Some(former) = former {
        let note = format!("{} {} replaces {former}, which stays open until it is unused", P::NAME, next.name);
        info!(server = pair.postgres().name, login = next.name, former, "rotated the credentials");
        pair.record_event(EventType::Normal, EventReason::CredentialsRotated, note);
    }
    Ok((created, published))
}

/// What keeps the former login open; none if it may be closed.
pub async fn kept_open<P: LoginPair>(
    pair: &P,
    former: &str,
    status: &CredentialsStatus,
    now: Timestamp,
) -> Result<Option<Kept>, Error> {
    let kept = if age(status, now) < GRACE { Some(Kept::Recent) } else { pair.kept_by(former) };
    let kept = match kept {
        Some(kept) => Some(kept),
        None => {
            let used = pair.postgres().is_used(former).await;
            used.map_err(|failure| failure.into_error(&pair.postgres().name))?.then_some(Kept::Sessions)
        }
    };
    Ok(if pair.may_close(kept.is_none()) { None } else { Some(kept.unwrap_or(Kept::Sessions)) })
}

/// Records that the former login is closed.
pub fn record_closed<P: LoginPair>(pair: &P, former: &str) {
    info!(server = pair.postgres().name, former, "closed a former login");
    let note = format!("closed {} {former}, which was replaced and is unused", P::NAME);
    pair.record_event(EventType::Normal, EventReason::FormerLoginClosed, note);
}

#[cfg(test)]
mod tests;
