//! Database: placed on a server, made there step by step, and given away in a binding Secret.

mod adopt;
pub mod cleanup;
mod place;
mod rotate;
mod rotation;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ahoi_api::{Binding, Database, DatabaseStatus, finalizers};
use ahoi_reconcile::{Error, EventType, Progress, Reconciler, Verdict, conditions, is_ready};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{Api, ResourceExt};
use tracing::{info, warn};

use self::rotate::Rotation;
use self::rotation::Kept;
pub use self::rotation::logins;
use crate::context::{Context, is_usable};
use crate::outage::is_long as is_long_outage;
use crate::postgres::desired::OtherLogin;
use crate::postgres::names::Names;
use crate::postgres::read_only::SERVER_READ_ONLY;
use crate::postgres::scram::Credentials;
use crate::postgres::server::{SERVER_UNREACHABLE, ServerPool, is_refusal_of_the_server};
use crate::postgres::step::{Step, Topic};
use crate::postgres::{execute, observe, parameters, plan};
use crate::quota::{self, Level};
use crate::renewal::{self, Due};
use crate::secret;
use crate::server::Growth;

/// When a database that has what it needs is looked at again after its server was away; its sweeps come earlier.
const LATER: Duration = Duration::from_secs(300);

/// The reason while another object has the name of the binding Secret, and how often that is looked at.
const NAME_CONFLICT: &str = "NameConflict";
/// The reason while the database that the status names is another object's.
pub const NOT_OURS: &str = "DatabaseNotOwned";
const RETRY_CONFLICT: Duration = Duration::from_secs(30);

/// The controller of Databases.
pub struct Databases(pub Arc<Context>);

impl Reconciler for Databases {
    type Kind = Database;
    const NAME: &'static str = "database";
    const FINALIZER: Option<&'static str> = Some(finalizers::DATABASE);

    async fn reconcile(&self, database: &Database) -> Result<Progress<DatabaseStatus>, Error> {
        match self.pass(database).await {
            // The server says so itself, once. A thousand databases would each write it, and again when it is back: they do
            // when an outage lasts, at the pace at which the server wakes them.
            Err(error)
                if is_ready(database)
                    && self.is_told_by_the_server(database, error.reason())
                    && !(error.reason() == SERVER_UNREACHABLE && self.is_long_outage(database)) =>
            {
                Ok(Progress::new(database.status.clone().unwrap_or_default()).requeue_in(LATER))
            }
            // An object that has the name of the Secret is not ours to watch: only a look tells that it is gone.
            Err(error) if error.reason() == NAME_CONFLICT => {
                let (namespace, generation) = (database.namespace().unwrap_or_default(), database.metadata.generation);
                let now = self.0.caches.databases.get_in(&namespace, &database.name_any());
                let mut status = now.and_then(|now| now.status.clone()).unwrap_or_default();
                conditions::set_verdict(&mut status.conditions, generation, Verdict::from(&error));
                Ok(Progress::new(status).requeue_in(RETRY_CONFLICT))
            }
            Err(error) if error.reason() == NOT_OURS => self.place_again(database, error).await,
            outcome => outcome,
        }
    }

    async fn cleanup(&self, database: &Database) -> Result<(), Error> {
        cleanup::cleanup(&self.0, database).await
    }
}

impl Databases {
    /// Whether an error is one that the database's server has, and says so itself. That it is away may be found here first;
    /// anything else that a server which is Ready does not have is the database's own.
    fn is_told_by_the_server(&self, database: &Database, reason: &str) -> bool {
        let name = database.status.as_ref().and_then(|status| status.server.as_deref());
        let server = name.and_then(|name| self.0.caches.servers.get(name));
        [SERVER_UNREACHABLE, SERVER_READ_ONLY].contains(&reason)
            || is_refusal_of_the_server(reason) && server.is_some_and(|server| !is_usable(&server))
    }

    fn is_long_outage(&self, database: &Database) -> bool {
        let name = database.status.as_ref().and_then(|status| status.server.as_deref());
        let server = name.and_then(|name| self.0.caches.servers.get(name));
        server.is_some_and(|server| is_long_outage(&server, Timestamp::now()))
    }

    async fn pass(&self, database: &Database) -> Result<Progress<DatabaseStatus>, Error> {
        let context = &self.0;
        let storage = storage(database)?;
        parameters::check(&database.spec.parameters)?;

        let database = &*self.placed(database, storage).await?;
        let mut status = database.status.clone().unwrap_or_default();
        let (Some(server_name), Some(name)) = (&status.server.clone(), &status.database_name.clone()) else {
            return Err(Error::Conflict("the status was emptied".to_owned()));
        };
        let (server, pool) = context.usable(server_name)?;
        let present = match self.binding(database)? {
            // One that has lost its label is not lost.
            None if status.binding.is_some() => self.unlabelled(database).await?,
            present => present,
        };
        let (names, mut other) = logins(&status, present.as_deref(), name);

        let before = Level::read(&status.conditions);
        let measured = pool.memory.lock().sizes.get(name).copied();
        let level = measured.map_or(before, |size| before.next(size, storage));
        let level = self.enforced(level, &mut status, &pool, &names).await?;

        let kept = self.credentials(database, &pool, &names, present.as_deref()).await?;
        let lost = kept.is_none() && status.binding.is_some();
        if before == Level::Closed && level == Level::Exceeded {
            execute::freeze_again(&pool, &names).await?;
        }
        let rotation = Rotation { context, database, server: &server, pool: &pool, access: level.into() };
        let mut wait = rotation.former(&mut status, &names, &mut other).await?;
        let now = Timestamp::now();
        let losses = renewal::losses(status.credentials.as_ref(), now);
        let is_former_open = other == OtherLogin::Former;
        let held = if lost { renewal::replaceable_at(status.credentials.as_ref(), is_former_open, now) } else { None };

        // The Secret first: should the process die now, somebody knows the password that the role gets later. One that is
        // lost is not replaced by another for the same login: its clients go on while they change over.
        let (mut binding, mut steps) = match kept {
            None if held.is_some() => (Arc::default(), rotation.hold(&names, other).await?),
            None if lost => (Arc::default(), Vec::new()),
            kept => rotation.settle(&names, other, &kept.map_or_else(Credentials::generate, Ok)?).await?,
        };
        // Neither that a login which nobody uses is closed is a repair, nor that a default is set.
        steps.retain(|step| match step {
            Step::NoLogin { role } => *role != names.other,
            Step::Set { parameter, .. } => parameter != plan::TEMPORARY_FILES,
            _ => true,
        });
        let due = rotation::due(database, now)?;
        if held.is_none() && (lost || due == Due::Now && other == OtherLogin::Closed) {
            binding = rotation.rotate(&mut status, names.clone()).await?;
            wait = Some(Kept::Young.explain(&names.login));
        }

        let size = match measured.or(status.size_bytes) {
            Some(size) => size,
            None => measure(&pool, name).await?,
        };
        if before != level {
            // What was written until now is not held against it.
            pool.memory.lock().growth.remove(name);
            if level == Level::Exceeded {
                let size = measure(&pool, name).await?;
                pool.memory.lock().growth.insert(name.clone(), Growth::from(size, Instant::now()));
            }
        }
        if held.is_some() {
            self.tell(database, &pool, &steps, before, level);
        } else if lost {
            let lost_secrets = i32::try_from(losses.saturating_add(1)).ok();
            status.credentials.iter_mut().for_each(|credentials| credentials.lost_secrets = lost_secrets);
            let note = format!(
                "Secret {} was deleted or modified; created a new login with a new password",
                binding.name_any()
            );
            context.platform.event(database, EventType::Warning, "PasswordReplaced", note);
            context.metrics.password_changes.inc();
        } else {
            self.tell_of_edits(database, present.as_deref(), &binding);
            self.tell(database, &pool, &steps, before, level);
        }
        if quota::is_news(status.size_bytes, size, storage) {
            status.size_bytes = Some(size);
        }
        status.storage_bytes = Some(storage);
        if held.is_none() {
            status.binding = Some(Binding { name: binding.name_any(), version: secret::version(&binding) });
        }
        let generation = database.metadata.generation;
        let _ = conditions::set(&mut status.conditions, level.condition().observed_generation(generation));
        let going = binding.metadata.deletion_timestamp.is_some().then(|| blocked_deletion(&binding));
        let message = format!("database {} on DatabaseServer {}", names.database, server.name_any());
        let adopted = status.adopted.as_ref().map(adopt::explain);
        let message = [Some(message), adopted, wait, going].into_iter().flatten().collect::<Vec<_>>().join("; ");
        let verdict = match (level, held) {
            (Level::Closed, _) => Verdict::stalled(level.explain().0, level.explain().1),
            (_, Some(at)) => Verdict::progressing(SECRET_LOST, lost_again(database, &names, at)),
            _ => Verdict::ready(message),
        };
        conditions::set_verdict(&mut status.conditions, generation, verdict);
        let again = rotate::look_again(&status, due, now);
        let opens = status.closed_until.as_ref().map(|until| opens_in(until, Timestamp::now()));
        let held = held.and_then(|at| Duration::try_from(at.duration_since(now)).ok());
        Ok(Progress { requeue: again.into_iter().chain(opens).chain(held).min(), status })
    }

    /// The level, when what was seen of the database since its storage was used up is taken into account.
    async fn enforced(
        &self,
        level: Level,
        status: &mut DatabaseStatus,
        pool: &ServerPool,
        names: &Names,
    ) -> Result<Level, Error> {
        let now = Timestamp::now();
        let is_over = |until: &Time| opens_in(until, now).is_zero();
        let level = match level {
            Level::Closed if status.closed_until.as_ref().is_none_or(is_over) => Level::Exceeded,
            level => level,
        };
        let seems_to_grow = || pool.memory.lock().growth.get(&names.database).is_some_and(Growth::is_too_much);
        if level == Level::Exceeded && seems_to_grow() && execute::grows_too_much(pool, names).await? {
            status.closed_until = Some(Time(now + quota::CLOSED_FOR));
            return Ok(Level::Closed);
        }
        if level != Level::Closed {
            status.closed_until = None;
        }
        Ok(level)
    }

    /// What the login in use authenticates with: as the Secret says, as was generated for it and could not be written, or as can
    /// be proved with what is left of a Secret that was damaged.
    async fn credentials(
        &self,
        database: &Database,
        pool: &ServerPool,
        names: &Names,
        present: Option<&Secret>,
    ) -> Result<Option<Credentials>, Error> {
        let known = database.status.as_ref().and_then(version_of);
        let written = present.and_then(|present| secret::credentials(present, known));
        let kept = written.or_else(|| self.0.remembered.of(&database.uid().unwrap_or_default(), &names.login));
        match (kept, present) {
            (None, Some(damaged)) if known.is_some() && !pool.hides_passwords() => {
                let verifier = observe::verifier(pool, names, &names.login).await?;
                Ok(verifier.and_then(|verifier| secret::recovered(damaged, &verifier)))
            }
            (kept, _) => Ok(kept),
        }
    }

    /// Says what somebody has changed in a Secret whose password is still right. A Secret that is to change anyway is no
    /// such news.
    fn tell_of_edits(&self, database: &Database, before: Option<&Secret>, now: &Secret) {
        let known = database.status.as_ref().and_then(version_of);
        let (Some(before), Some(known)) = (before, known) else { return };
        if known == secret::version(now) && known != secret::version(before) {
            let note = format!("put back what had been changed in Secret {}", now.name_any());
            self.0.platform.event(database, EventType::Warning, "Repaired", note);
        }
    }

    /// One that cannot be read is not lost.
    fn binding(&self, database: &Database) -> Result<Option<Arc<Secret>>, Error> {
        let namespace = database.namespace().unwrap_or_default();
        self.0.caches.bindings.cache().find(&namespace, &secret::name_of(&database.name_any()))
    }

    /// The Secret of the binding's name, whatever its labels are.
    async fn unlabelled(&self, database: &Database) -> Result<Option<Arc<Secret>>, Error> {
        let client = self.0.platform.client.clone();
        let secrets: Api<Secret> = Api::namespaced(client, &database.namespace().unwrap_or_default());
        Ok(secrets.get_opt(&secret::name_of(&database.name_any())).await?.map(Arc::new))
    }

    /// Says what was done where nobody asked for it.
    fn tell(&self, database: &Database, pool: &ServerPool, steps: &[Step], before: Level, level: Level) {
        let context = &self.0;
        if steps.iter().any(|step| matches!(step, Step::CreateDatabase { .. })) {
            context.metrics.provisioned.inc();
        }
        if before != level {
            let (reason, note) = level.explain();
            let type_ = if level == Level::Within { EventType::Normal } else { EventType::Warning };
            info!(server = pool.name, reason, "the quota has another level");
            context.platform.event(database, type_, reason, note);
            return;
        }
        let topics: BTreeSet<Topic> = steps.iter().map(Step::topic).collect();
        if !is_ready(database) || topics.is_empty() {
            return;
        }
        topics.iter().for_each(|topic| context.metrics.repaired(topic.as_str()));
        let what = topics.iter().map(|topic| topic.as_str()).collect::<Vec<_>>().join(", ");
        let note = format!("put back what had been changed on DatabaseServer {}: {what}", pool.name);
        warn!("{note}");
        context.platform.event(database, EventType::Warning, "Repaired", note);
    }
}

/// The reason of a Database whose Secret was lost again, and whose login is not replaced yet.
const SECRET_LOST: &str = "SecretLost";

fn lost_again(database: &Database, names: &Names, at: Timestamp) -> String {
    let (namespace, name) = (database.namespace().unwrap_or_default(), secret::name_of(&database.name_any()));
    format!(
        "Secret {namespace}/{name} was deleted or its password modified again: find out by which client. Login {} keeps its \
         password; it is replaced by a new one at {at}",
        names.login
    )
}

fn blocked_deletion(binding: &Secret) -> String {
    format!(
        "Secret {} is being deleted and kept by the finalizers {}: remove them to have it created again",
        binding.name_any(),
        binding.finalizers().join(", ")
    )
}

fn storage(database: &Database) -> Result<i64, Error> {
    let bytes = database.spec.storage.bytes();
    bytes.map_err(|error| Error::terminal("InvalidSize", format!("spec.storage: {error}")))
}

/// How long a time is ahead.
fn opens_in(until: &Time, now: Timestamp) -> Duration {
    Duration::try_from(until.0.duration_since(now)).unwrap_or_default()
}

fn version_of(status: &DatabaseStatus) -> Option<&str> {
    status.binding.as_ref().map(|binding| binding.version.as_str())
}

async fn measure(pool: &ServerPool, name: &str) -> Result<i64, Error> {
    let sizes = pool.sizes(&[name.to_owned()]).await.map_err(|failure| failure.into_error(&pool.name))?;
    let size = sizes.first().map(|(_, size)| *size).unwrap_or_default();
    pool.memory.lock().sizes.insert(name.to_owned(), size);
    Ok(size)
}

#[cfg(test)]
mod tests;
