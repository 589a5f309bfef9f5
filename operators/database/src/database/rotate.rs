//! Carries a change of login out, one step after the other. See [`rotation`] for why the process may die anywhere.

use std::sync::Arc;
use std::time::Duration;

use ahoi_api::{Database, DatabaseServer, DatabaseStatus};
use ahoi_reconcile::{Error, EventType};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt;
use tracing::{info, warn};

use super::rotation::{self, Kept};
use crate::context::Context;
use crate::postgres::alike;
use crate::postgres::desired::{Access, Desired, OtherLogin};
use crate::postgres::execute;
use crate::postgres::names::Names;
use crate::postgres::observe;
use crate::postgres::scram::Credentials;
use crate::postgres::server::{Failure, Login, ServerPool};
use crate::postgres::step::Step;
use crate::renewal::{self, Due};
use crate::secret;
use crate::verifiers;

/// What a change of login needs to know.
pub struct Rotation<'a> {
    pub context: &'a Context,
    pub database: &'a Database,
    pub server: &'a DatabaseServer,
    pub pool: &'a ServerPool,
    /// What the logins may do.
    pub access: Access,
}

impl Rotation<'_> {
    /// Takes over which login is in use, and lets go of the former one if nothing uses it. The answer is what keeps it.
    pub async fn former(
        &self,
        status: &mut DatabaseStatus,
        names: &Names,
        other: &mut OtherLogin,
    ) -> Result<Option<String>, Error> {
        if status.credentials.is_none() {
            status.credentials = Some(rotation::begun(self.database, None, Timestamp::now()));
        }
        if status.login.as_ref() != Some(&names.login) {
            let found = renewal::found(status.credentials.as_ref(), Some(names.other.clone()), Timestamp::now());
            status.credentials = Some(found);
            status.login = Some(names.login.clone());
        }
        let Some(credentials) = status.credentials.as_mut().filter(|_| *other == OtherLogin::Former) else {
            return Ok(None);
        };
        if let Some(kept) = self.kept_open(credentials, &names.other).await? {
            return Ok(Some(kept.explain(&names.other)));
        }
        *other = OtherLogin::Closed;
        credentials.previous_login = None;
        let note = format!("the former login {} is closed: nothing uses it any more", names.other);
        info!(server = self.pool.name, "{note}");
        self.context.platform.event(self.database, EventType::Normal, "FormerLoginClosed", note);
        Ok(None)
    }

    async fn kept_open(&self, credentials: &ahoi_api::CredentialsStatus, former: &str) -> Result<Option<Kept>, Error> {
        let (namespace, name) = (self.database.namespace(), self.database.name_any());
        let mut pools = self.context.caches.pools.all();
        pools.retain(|pool| pool.namespace() == namespace && pool.spec.database_ref.name == name);
        let kept = rotation::kept_open(credentials, former, pools.iter().map(|pool| &**pool), Timestamp::now());
        if kept.is_some() {
            return Ok(kept);
        }
        let used = self.pool.is_used(former).await.map_err(|failure| failure.into_error(&self.pool.name))?;
        Ok(used.then_some(Kept::Sessions))
    }

    /// Secret and server as they are to be without a change of login.
    pub async fn settle(
        &self,
        names: &Names,
        other: OtherLogin,
        credentials: &Credentials,
    ) -> Result<(Arc<Secret>, Vec<Step>), Error> {
        let given = self.give_away(names, credentials).await;
        // Whatever a tenant has done to its Secret: once the login has this password, the rest of the database does not wait.
        let is_known = self.database.status.as_ref().is_some_and(|status| status.binding.is_some());
        if given.is_err() && !is_known {
            return given.map(|binding| (binding, Vec::new()));
        }
        let steps = self.converge(names, other, &credentials.verifier).await?;
        Ok((given?, steps))
    }

    /// The server as it is to be while the Secret is lost and its login is not to be replaced yet.
    pub async fn hold(&self, names: &Names, other: OtherLogin) -> Result<Vec<Step>, Error> {
        // Where verifiers are hidden, there is nothing that a login which somebody has closed could be opened with again.
        if self.pool.hides_passwords() {
            return Ok(Vec::new());
        }
        match observe::verifier(self.pool, names, &names.login).await? {
            Some(verifier) => self.converge(names, other, &verifier).await,
            None => Ok(Vec::new()),
        }
    }

    /// Makes the other login the one that is given away, and the one in use the former. The password need not be kept
    /// before the Secret has it: whoever dies on the way there begins with another one.
    pub async fn rotate(&self, status: &mut DatabaseStatus, names: Names) -> Result<Arc<Secret>, Error> {
        let (former, names) = (names.login.clone(), names.rotated());
        let (uid, remembered) = (self.uid(), &self.context.remembered);
        // The same again, where the last attempt did not get as far as the Secret.
        let credentials = remembered.of(&uid, &names.login).map_or_else(Credentials::generate, Ok)?;
        remembered.keep(&uid, &names.login, &credentials);
        self.converge(&names, OtherLogin::Former, &credentials.verifier).await?;
        let missing = self.give_the_same(&names).await?;
        if self.access != Access::Closed {
            self.try_out(&names, &credentials).await?;
        }
        let binding = self.give_away(&names, &credentials).await?;
        let note = format!("login {} takes the place of {former}, which stays open until nothing uses it", names.login);
        info!(server = self.pool.name, "{note}");
        self.context.platform.event(self.database, EventType::Normal, "CredentialsRotated", note);
        if let Some(missing) = missing {
            let note = format!(
                "login {} differs from {former}, which it replaces, in: {missing}. The admin role of DatabaseServer {} may not \
                 change that: change it as an administrator of PostgreSQL",
                names.login, self.pool.name
            );
            warn!(server = self.pool.name, "{note}");
            self.context.platform.event(self.database, EventType::Warning, "LoginsDiffer", note);
        }
        status.login = Some(names.login);
        status.credentials = Some(rotation::begun(self.database, Some(former), Timestamp::now()));
        Ok(binding)
    }

    /// Gives the next login what an administrator has given to the one that it replaces. The answer is what PostgreSQL does not let
    /// us give: that is no reason to keep a password.
    async fn give_the_same(&self, names: &Names) -> Result<Option<String>, Error> {
        let before = observe::one(self.pool, names).await?;
        let steps = alike::steps(names, &before);
        for step in &steps {
            let done = execute::run(self.pool, names, before.version, std::slice::from_ref(step)).await;
            done.or_else(|failed| if failed.is_refusal() { Ok(()) } else { Err(failed.into_error(self.pool)) })?;
        }
        if steps.is_empty() {
            return Ok(None);
        }
        // What a role may not revoke, PostgreSQL skips with a warning.
        let left = alike::steps(names, &observe::one(self.pool, names).await?);
        Ok((!left.is_empty()).then(|| alike::explain(&left)))
    }

    fn uid(&self) -> String {
        self.database.uid().unwrap_or_default()
    }

    async fn converge(&self, names: &Names, other: OtherLogin, verifier: &str) -> Result<Vec<Step>, Error> {
        let cluster = &self.context.cluster;
        let desired = Desired::of(self.database, cluster, names.clone(), verifier, other, self.access)?;
        execute::converge(self.pool, &desired).await
    }

    /// Nobody is given credentials that do not work.
    async fn try_out(&self, names: &Names, credentials: &Credentials) -> Result<(), Error> {
        let login = Login { username: names.login.clone(), password: credentials.password.clone() };
        let tried = self.pool.log_in(&names.database, &login).await;
        tried.map_err(|failure| match failure {
            Failure::LoginRefused(why) => Error::structural(
                "NewLoginRefused",
                format!(
                    "DatabaseServer {} refuses the next login {} of database {}: {why}; see its pg_hba.conf. The \
                     credentials in use stay as they are",
                    self.pool.name, names.login, names.database
                ),
            ),
            failure => failure.into_error(&self.pool.name),
        })
    }

    /// One write: applications see all of it or nothing.
    async fn give_away(&self, names: &Names, credentials: &Credentials) -> Result<Arc<Secret>, Error> {
        if self.pool.hides_passwords() || verifiers::are_known(self.context, &names.database) {
            // The poolers are to know it by then.
            verifiers::keep(self.context, &names.login, &credentials.verifier).await?;
        }
        let binding = secret::desired(self.database, &self.server.spec, names, credentials);
        let binding = secret::secured(binding, &self.server.spec.tls, self.pool.authorities.as_deref());
        let (bindings, remembered) = (&self.context.caches.bindings, &self.context.remembered);
        match bindings.apply(self.database, binding.clone()).await {
            Ok(given) => {
                remembered.forget(&self.uid());
                Ok(given)
            }
            Err(error) => {
                remembered.keep(&self.uid(), &names.login, credentials);
                // One that a finalizer keeps says what it is to say as long as it is there; it is created again afterwards.
                let live = bindings.child(self.database, &binding.name_any());
                live.filter(|live| live.metadata.deletion_timestamp.is_some() && live.data == binding.data).ok_or(error)
            }
        }
    }
}

/// When to look again although nothing happens: at a former login, or when the next change is due before anybody else
/// looks.
pub fn look_again(status: &DatabaseStatus, due: Due, now: Timestamp) -> Option<Duration> {
    const HOUR: Duration = Duration::from_secs(3600);
    let credentials = status.credentials.as_ref();
    let former = credentials.filter(|credentials| credentials.previous_login.is_some());
    let former = former.map(|credentials| rotation::look_again(credentials, now));
    let due = if let Due::In(due) = due { Some(due).filter(|due| *due < HOUR) } else { None };
    former.into_iter().chain(due).min()
}

#[cfg(test)]
mod tests {
    use ahoi_reconcile::testing::{ApiServer, ready};

    use super::*;
    use crate::context::tests::{admin, context, database, secret, server};

    /// pgbouncer never looks up a login that it has known from a file, also after the server lets passwords be looked up.
    #[tokio::test]
    async fn the_agents_get_a_new_verifier_where_they_know_a_former_one() {
        let database = database();
        let names = Names::of("c_3f2504e04f89");
        let published = ahoi_api::verifier_secret(&names.database);
        let writes = async |known: &str| {
            let (api, server) = (ApiServer::new(), ready(server("pg-1")));
            let verifiers = secret(&published, &[(known, "v")]);
            let context = context(&api, vec![server.clone()], vec![], vec![admin(), verifiers]);
            let pool = context.pool(&server).unwrap();
            assert!(!pool.hides_passwords());
            let rotation = Rotation {
                context: &context,
                database: &database,
                server: &server,
                pool: &pool,
                access: Access::Write,
            };
            // What the API server answers about the Secret of the binding is none of this test's business.
            let _ = rotation.give_away(&names, &Credentials::generate().unwrap()).await;
            api.take_writes()
        };
        let patch = format!("PATCH /api/v1/namespaces/ahoi-system/secrets/{published}");
        assert_eq!(writes("c_3f2504e04f89_b").await.first(), Some(&patch), "before the binding");
        assert!(!writes("c_000000000000_a").await.contains(&patch), "its logins are looked up");
    }
}
