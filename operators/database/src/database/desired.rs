//! The stage `desired`: what the quota allows, and what happens to the logins. Pure.

use std::time::Duration;

use ahoi_api::{CredentialsStatus, Database};
use ahoi_reconcile::Error;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;

use super::observe::Observed;
use super::references::{References, Validated};
use crate::postgres::desired::OtherLogin;
use crate::postgres::scram::Credentials;
use crate::quota::{self, Level};
use crate::rotation::{self, Due, Kept};

/// What the reconcile is to achieve.
pub struct Desired {
    /// Storage in bytes.
    pub storage: i64,
    /// Level of the quota that the status reports.
    pub former_level: Level,
    /// Level of the quota from now on.
    pub level: Level,
    /// Until when the logins of a growing database stay closed.
    pub closed_until: Option<Time>,
    /// What happens to the login in use.
    pub login: LoginAction,
    /// State of the other login.
    pub other: OtherLogin,
    /// What keeps the other login open.
    pub kept: Option<Kept>,
    /// Status of the credentials before a rotation.
    pub credentials: CredentialsStatus,
    /// When the next rotation is due.
    pub due: Due,
    /// Time of the decision.
    pub at: Timestamp,
}

/// What happens to the login in use.
pub enum LoginAction {
    /// The Secret publishes it with these credentials; none: with new ones, for the first time.
    Publish(Option<Credentials>),
    /// The same, and then the other login replaces it.
    Rotate(Option<Credentials>),
    /// The Secret is lost: the other login replaces it at once.
    Replace {
        /// Number of Secrets that were lost in a row before.
        losses: u32,
    },
    /// The Secret was lost again: the login keeps its password until this time, and is replaced then.
    Hold(Timestamp),
}

/// Decides from what was validated, dereferenced and observed.
pub fn desired(valid: Validated, references: &References, observed: Observed) -> Result<Desired, Error> {
    let Observed { level: former_level, size, grows, credentials, status, former: kept, at } = observed;
    let database = &*references.database;
    let level = size.map_or(former_level, |size| former_level.next(size, valid.storage));
    let (level, closed_until) = closed(database, level, grows, at);
    let is_former_open = references.other == OtherLogin::Former && kept.is_some();
    let other = if is_former_open { OtherLogin::Former } else { OtherLogin::Closed };
    let mut recorded = status;
    if references.other == OtherLogin::Former && other == OtherLogin::Closed {
        recorded.previous_login = None;
    }
    let known = database.status.as_ref().and_then(|status| status.credentials.as_ref());
    let due = rotation::due(database.spec.credentials.as_ref(), known, &database.uid().unwrap_or_default(), at)?;
    let is_lost = credentials.is_none() && references.known_version().is_some();
    let login = match (is_lost, rotation::replaceable_at(Some(&recorded), is_former_open, at)) {
        (true, Some(at)) => LoginAction::Hold(at),
        (true, None) => LoginAction::Replace { losses: rotation::losses(Some(&recorded), at) },
        (false, _) if due == Due::Now && !is_former_open => LoginAction::Rotate(credentials),
        (false, _) => LoginAction::Publish(credentials),
    };
    let (storage, credentials) = (valid.storage, recorded);
    Ok(Desired { storage, former_level, level, closed_until, login, other, kept, credentials, due, at })
}

/// The level after the growth of the database, and until when its logins stay closed.
fn closed(database: &Database, level: Level, grows: bool, now: Timestamp) -> (Level, Option<Time>) {
    let until = database.status.as_ref().and_then(|status| status.closed_until.clone());
    let level = match level {
        Level::Closed if until.as_ref().is_none_or(|until| until.0 <= now) => Level::Exceeded,
        level => level,
    };
    match level {
        Level::Exceeded if grows => (Level::Closed, Some(Time(now + quota::CLOSED_FOR))),
        Level::Closed => (Level::Closed, until),
        level => (level, None),
    }
}

/// Time until a point in time; zero if it has passed.
pub fn until(time: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(time.duration_since(now)).unwrap_or_default()
}

#[cfg(test)]
mod tests;
