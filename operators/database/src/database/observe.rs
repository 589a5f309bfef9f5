//! The stage `observe`: what PostgreSQL reports about the database. Reads only.

use std::time::Instant;

use ahoi_api::CredentialsStatus;
use ahoi_reconcile::Error;
use jiff::Timestamp;

use super::logins::Logins;
use super::references::{References, Validated};
use crate::context::Context;
use crate::growth::Growth;
use crate::memory::Instance;
use crate::postgres::desired::OtherLogin;
use crate::postgres::execute;
use crate::postgres::observe;
use crate::postgres::scram::Credentials;
use crate::quota::Level;
use crate::rotation::{self, Kept};
use crate::secret;

/// Observed state of the database.
pub struct Observed {
    /// Level of the quota that the status reports.
    pub level: Level,
    /// Size in bytes, if it has been measured.
    pub size: Option<i64>,
    /// Whether the database keeps growing after its storage was used up.
    pub grows: bool,
    /// Password and verifier of the login in use; none if they are lost or do not exist yet.
    pub credentials: Option<Credentials>,
    /// Status of the credentials, after the login that the Secret publishes.
    pub status: CredentialsStatus,
    /// What keeps the former login open; none if there is none or if it may be closed.
    pub former: Option<Kept>,
    /// Time of the observation.
    pub at: Timestamp,
}

/// Asks PostgreSQL for what memory and objects do not contain.
pub async fn observe(context: &Context, references: &References, valid: Validated) -> Result<Observed, Error> {
    let References { database, instance, names, other, .. } = references;
    let (now, status) = (Timestamp::now(), database.status.clone().unwrap_or_default());
    let level = Level::read(&status.conditions);
    let size = instance.memory.lock().sizes.get(&names.database).copied();
    let next = size.map_or(level, |size| level.next(size, valid.storage));
    let is_closed = next == Level::Closed && status.closed_until.as_ref().is_some_and(|until| until.0 > now);
    let is_full = next >= Level::Exceeded && !is_closed;
    let grows = is_full && grows(references).await?;
    let credentials = credentials(context, references).await?;
    let request = database.spec.credentials.as_ref();
    let (known, recorded) = (status.login.as_deref(), status.credentials.as_ref());
    let status = rotation::in_use(request, known, &names.login, recorded, now);
    let former = match other {
        OtherLogin::Former => {
            let logins = Logins { context, references, access: next.into() };
            rotation::kept_open(&logins, &names.other, &status, now).await?
        }
        OtherLogin::Closed => None,
    };
    Ok(Observed { level, size, grows, credentials, status, former, at: now })
}

/// The credentials of the login in use: those in the Secret, those that were generated and not written yet, or those that what is
/// left of a damaged Secret proves.
async fn credentials(context: &Context, references: &References) -> Result<Option<Credentials>, Error> {
    let References { database, names, instance, binding, .. } = references;
    let (postgres, known, binding) = (&instance.postgres, references.known_version(), binding.as_deref());
    let written = binding.and_then(|binding| secret::credentials(binding, known));
    let uid = database.metadata.uid.clone().unwrap_or_default();
    let credentials = written.or_else(|| context.remembered.of(&uid, &names.login));
    match (credentials, binding) {
        (None, Some(damaged)) if known.is_some() && !postgres.hides_passwords() => {
            let verifier = observe::verifier(postgres, names, &names.login).await?;
            Ok(verifier.and_then(|verifier| secret::recovered(damaged, &verifier)))
        }
        (credentials, _) => Ok(credentials),
    }
}

/// Whether a database grows that seems to grow.
async fn grows(references: &References) -> Result<bool, Error> {
    let References { instance, names, .. } = references;
    let seems_to_grow = instance.memory.lock().growth.get(&names.database).is_some_and(Growth::is_too_much);
    if !seems_to_grow {
        return Ok(false);
    }
    // A database whose own sessions use all of its connections cannot be asked.
    let Some(own) = execute::own_size(&instance.postgres, names).await? else { return Ok(true) };
    let mut memory = instance.memory.lock();
    let growth = memory.growth.get_mut(&names.database);
    Ok(growth.is_some_and(|growth| growth.is_still_too_much(own.size, own.maps, own.is_rewriting, Instant::now())))
}

/// Measures a database.
pub async fn measure(instance: &Instance, database: &str) -> Result<i64, Error> {
    let sizes = instance.postgres.sizes(&[database.to_owned()]).await;
    let sizes = sizes.map_err(|failure| failure.into_error(&instance.name))?;
    let size = sizes.first().map(|(_, size)| *size).unwrap_or_default();
    instance.memory.lock().sizes.insert(database.to_owned(), size);
    Ok(size)
}
