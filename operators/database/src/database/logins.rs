//! The two logins of a database: created on the server, published in the binding Secret, rotated.

use std::sync::Arc;
use std::time::Duration;

use ahoi_api::{ConnectionPool, CredentialsStatus, Database, EventReason, Reason};
use ahoi_reconcile::{Error, EventType};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt;
use tracing::warn;

use super::references::References;
use crate::context::Context;
use crate::object;
use crate::postgres::desired::{Access, OtherLogin};
use crate::postgres::execute;
use crate::postgres::grants;
use crate::postgres::names::Names;
use crate::postgres::observe;
use crate::postgres::scram::Credentials;
use crate::postgres::server::Postgres;
use crate::postgres::step::Step;
use crate::rotation::{self, Due, Kept, LoginPair, NewLogin, age};
use crate::secret;
use crate::verifiers;

/// Delay until a former login is checked again, and the delay after it has been open for long.
const RECHECK: Duration = Duration::from_secs(10);
const SLOW_RECHECK: Duration = Duration::from_secs(60);
/// Time after which a former login has been open for long.
const LONG: Duration = Duration::from_secs(600);

/// The logins of one database.
pub struct Logins<'a> {
    /// What both controllers share.
    pub context: &'a Context,
    /// What the Database refers to.
    pub references: &'a References,
    /// What the logins may do.
    pub access: Access,
}

impl Logins<'_> {
    /// Publishes the login in use, and changes the server to what is desired.
    pub async fn converge(
        &self,
        other: OtherLogin,
        credentials: &Credentials,
    ) -> Result<(Arc<Secret>, Vec<Step>), Error> {
        let names = &self.references.names;
        // The Secret comes first: after a crash it has the password that the role gets later.
        let published = self.write_secret(names, credentials).await;
        // Once a login has this password, an obstacle to the Secret does not block the rest of the database.
        let is_known = self.database().status.as_ref().is_some_and(|status| status.binding.is_some());
        if published.is_err() && !is_known {
            return published.map(|binding| (binding, Vec::new()));
        }
        let steps = self.change_server(names, other, &credentials.verifier).await?;
        Ok((published?, steps))
    }

    /// Changes the server to what is desired while the Secret is lost and its login is not replaced yet.
    pub async fn converge_without_secret(&self, other: OtherLogin) -> Result<Vec<Step>, Error> {
        let (postgres, names) = (self.postgres(), &self.references.names);
        // A hidden verifier cannot be set again if the login was closed.
        if postgres.hides_passwords() {
            return Ok(Vec::new());
        }
        match observe::verifier(postgres, names, &names.login).await? {
            Some(verifier) => self.change_server(names, other, &verifier).await,
            None => Ok(Vec::new()),
        }
    }

    /// Publishes the other login with a new password.
    pub async fn rotate(&self) -> Result<Arc<Secret>, Error> {
        let (former, next) = (&self.references.names.login, &self.references.names.other);
        let (uid, remembered) = (self.uid(), &self.context.remembered);
        // The same password as in the last attempt, if that one did not write the Secret.
        let credentials = remembered.of(&uid, next).map_or_else(Credentials::generate, Ok)?;
        remembered.keep(&uid, next, &credentials);
        let next = NewLogin { name: next.clone(), credentials };
        let (differences, binding) = rotation::replace(self, Some(former), &next).await?;
        if let Some(differences) = differences {
            let note = format!(
                "login {} differs from {former}, which it replaces, in: {differences}. The admin role of DatabaseServer {} may not \
                 change that: change it as an administrator of PostgreSQL",
                next.name,
                self.postgres().name
            );
            warn!(server = self.postgres().name, "{note}");
            self.record_event(EventType::Warning, EventReason::LoginsDiffer, note);
        }
        Ok(binding)
    }

    /// Gives the login in `names` what an administrator has granted to the other one. The result is what PostgreSQL refused, which
    /// does not prevent the rotation.
    async fn copy_grants(&self, names: &Names) -> Result<Option<String>, Error> {
        let postgres = self.postgres();
        let before = observe::one(postgres, names).await?;
        let steps = grants::steps(names, &before);
        for step in &steps {
            let done = execute::run(postgres, names, before.version, std::slice::from_ref(step)).await;
            done.or_else(|failed| if failed.is_refusal() { Ok(()) } else { Err(failed.into_error(postgres)) })?;
        }
        if steps.is_empty() {
            return Ok(None);
        }
        // PostgreSQL skips with a warning what a role may not revoke.
        let left = grants::steps(names, &observe::one(postgres, names).await?);
        Ok((!left.is_empty()).then(|| grants::explain(&left)))
    }

    async fn change_server(&self, names: &Names, other: OtherLogin, verifier: &str) -> Result<Vec<Step>, Error> {
        let (cluster, memory) = (&self.context.cluster, &self.references.instance.memory);
        let desired = object::desired(self.database(), cluster, names.clone(), verifier, other, self.access)?;
        let mut corrections = memory.lock().corrections.of(names);
        let before = corrections.clone();
        let outcome = execute::converge(self.postgres(), &desired, &mut corrections).await;
        memory.lock().corrections.remove_repaired(&before, &corrections);
        outcome
    }

    async fn write_secret(&self, names: &Names, credentials: &Credentials) -> Result<Arc<Secret>, Error> {
        let postgres = self.postgres();
        if postgres.hides_passwords() || verifiers::are_known(self.context, &names.database) {
            // The poolers must know the verifier before any client uses the password.
            match verifiers::keep(self.context, &names.login, &credentials.verifier).await {
                // The poolers look up a login that never had an entry.
                Err(error) if !postgres.hides_passwords() && error.reason() == Reason::VerifiersFull.as_str() => {}
                outcome => outcome?,
            }
        }
        let spec = &self.references.server.spec;
        let binding = secret::desired(self.database(), spec, names, credentials);
        let binding = secret::secured(binding, &spec.tls, postgres.authorities.as_deref());
        let (bindings, remembered) = (&self.context.caches.bindings, &self.context.remembered);
        match bindings.apply(self.database(), binding.clone()).await {
            Ok(published) => {
                remembered.forget(&self.uid());
                Ok(published)
            }
            Err(error) => {
                remembered.keep(&self.uid(), &names.login, credentials);
                // A Secret that a finalizer keeps has the right content until it is deleted; it is recreated afterwards.
                let live = bindings.child(self.database(), &binding.name_any());
                live.filter(|live| live.metadata.deletion_timestamp.is_some() && live.data == binding.data).ok_or(error)
            }
        }
    }

    fn database(&self) -> &Database {
        &self.references.database
    }

    fn uid(&self) -> String {
        self.database().uid().unwrap_or_default()
    }
}

impl LoginPair for Logins<'_> {
    /// What the new login lacks of the grants to the former one.
    type Created = Option<String>;
    type Published = Arc<Secret>;

    const NAME: &'static str = "login";

    fn postgres(&self) -> &Postgres {
        &self.references.instance.postgres
    }

    fn tried_in(&self) -> Option<&str> {
        Some(self.references.names.database.as_str()).filter(|_| self.access != Access::Closed)
    }

    fn refused(&self, login: &str, why: &str) -> Error {
        Error::structural(
            Reason::NewLoginRefused,
            format!(
                "DatabaseServer {} refuses the next login {login} of database {}: {why}. Allow it in pg_hba.conf and reload \
                 PostgreSQL; the present login stays in use until then",
                self.postgres().name,
                self.references.names.database
            ),
        )
    }

    async fn create(&self, _former: Option<&str>, next: &NewLogin) -> Result<Self::Created, Error> {
        let names = self.references.names.clone().rotated();
        self.change_server(&names, OtherLogin::Former, &next.credentials.verifier).await?;
        self.copy_grants(&names).await
    }

    async fn publish(&self, next: &NewLogin) -> Result<Self::Published, Error> {
        self.write_secret(&self.references.names.clone().rotated(), &next.credentials).await
    }

    fn kept_by(&self, former: &str) -> Option<Kept> {
        kept_by(self.references.connection_pools.iter().map(|pool| &**pool), former)
    }

    fn record_event(&self, type_: EventType, reason: EventReason, note: String) {
        self.context.platform.event(self.database(), type_, reason, note);
    }
}

/// The ConnectionPool that keeps the former login open.
fn kept_by<'a>(connection_pools: impl IntoIterator<Item = &'a ConnectionPool>, former: &str) -> Option<Kept> {
    let uses = |pool: &&ConnectionPool| {
        let status = pool.status.as_ref();
        status.is_some_and(|status| status.route.is_some() && status.unused_login.as_deref() != Some(former))
    };
    let pool = connection_pools.into_iter().filter(uses).min_by_key(|pool| pool.name_any())?;
    // A login retires in the route after the Secret has the next one: from then on clients can change over.
    let retiring = pool.status.as_ref().and_then(|status| status.route.as_ref()?.retiring.as_deref());
    let name = pool.name_any();
    Some(if retiring == Some(former) { Kept::ConnectionPool(name) } else { Kept::Unproved(name) })
}

/// Delay until the next reconcile: to check a former login, or because the next rotation is due before another cause triggers one.
/// ConnectionPools trigger the Database, sessions on the server do not.
pub fn recheck_after(credentials: Option<&CredentialsStatus>, due: Due, now: Timestamp) -> Option<Duration> {
    const HOUR: Duration = Duration::from_secs(3600);
    let former = credentials.filter(|credentials| credentials.previous_login.is_some());
    let former = former.map(|credentials| if age(credentials, now) < LONG { RECHECK } else { SLOW_RECHECK });
    let due = if let Due::In(due) = due { Some(due).filter(|due| *due < HOUR) } else { None };
    former.into_iter().chain(due).min()
}

#[cfg(test)]
mod tests;
