//! DatabaseServer: reached, prepared once, and swept every minute.

mod cleanup;
pub mod disk;
mod extensions;
mod fleets;
mod kept;
mod maintenance;
mod measure;
mod others;
mod passwords;
mod pooler;
mod pooler_secret;
mod removed_poolers;
mod sweep;

use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ahoi_api::{
    Database, DatabaseServer, DatabaseServerStatus, MaintenanceStatus, Passwords, READY_TO_RESTART, finalizers,
};
use ahoi_reconcile::{Error, EventType, ObjectRef, Progress, Reconciler, Verdict, conditions, is_ready};
use jiff::Timestamp;
use kube::ResourceExt;
use rand::Rng;
use tracing::{info, warn};

pub use self::fleets::servers_of_fleet;
pub use self::maintenance::Seen;
pub use self::measure::Growth;
use self::pooler::Pooler;
#[cfg(test)]
pub use self::pooler::names as pooler_names;
pub use self::sweep::{Memory, Retry};
use self::sweep::{Orphan, Wanted};
use crate::context::{Context, is_usable};
use crate::database;
use crate::outage;
use crate::pending;
use crate::postgres::desired::{Desired, Identity};
use crate::postgres::model::Observed;
use crate::postgres::observe;
use crate::postgres::prepare;
use crate::postgres::read_only::{self, SERVER_READ_ONLY};
use crate::postgres::server::ServerPool;
use crate::quota::Level;
use crate::secret;
use crate::verifiers;

/// The reason a DatabaseServer is not Ready while it cannot be reached.
pub const UNREACHABLE: &str = "DatabaseServerUnreachable";
/// How often a server that cannot be reached is tried.
const RETRY: Duration = Duration::from_secs(5);

/// How often one is tried that refuses us: nothing tells when somebody has put it right.
const RETRY_REFUSED: Duration = Duration::from_secs(15);

/// How often a server is looked at while a maintenance goes on.
const CLOSELY: Duration = Duration::from_secs(1);

/// The controller of DatabaseServers.
pub struct Servers(pub Arc<Context>);

impl Reconciler for Servers {
    type Kind = DatabaseServer;
    const NAME: &'static str = "database-server";
    const FINALIZER: Option<&'static str> = Some(finalizers::DATABASE_SERVER);

    async fn reconcile(&self, server: &DatabaseServer) -> Result<Progress<DatabaseServerStatus>, Error> {
        let (maintenance, busy) = self.maintain(server).await;
        let is_underway = maintenance.as_ref().is_some_and(|maintenance| maintenance.state.is_underway());
        let mut progress = if is_underway {
            Progress::new(server.status.clone().unwrap_or_default()).requeue_in(CLOSELY)
        } else {
            let outcome = match self.between_sweeps(server) {
                Some(pool) => self.measure_again(server, &pool).await,
                None => self.look(server).await,
            };
            let servers = &self.0.caches.servers;
            self.0.metrics.server(&server.name_any(), outcome.is_ok(), |name| servers.get(name).is_some());
            match outcome {
                Err(Error::Waiting { reason, .. }) if reason == SERVER_READ_ONLY => {
                    let found = read_only::of_server(&server.name_any(), false);
                    stalled(server, Verdict::from(&found), RETRY_REFUSED)
                }
                // Whatever is waited for here, it is the server.
                Err(Error::Waiting { .. }) => stalled(server, cannot_reach(server), RETRY),
                Err(Error::Structural { reason, message }) => {
                    stalled(server, Verdict::stalled(reason, message), RETRY_REFUSED)
                }
                outcome => outcome?,
            }
        };
        self.report_outage(server, &progress.status);
        progress.status.maintenance = maintenance;
        maintenance::tell(&mut progress.status, server.metadata.generation, &busy);
        Ok(progress)
    }

    async fn cleanup(&self, server: &DatabaseServer) -> Result<(), Error> {
        cleanup::remove(&self.0, server).await
    }
}

impl Servers {
    /// How far a planned maintenance is, and which processes are not quiet yet. At rest nothing is asked of anybody.
    async fn maintain(&self, server: &DatabaseServer) -> (Option<MaintenanceStatus>, Vec<String>) {
        let (wish, context) = (server.spec.maintenance.as_ref(), &self.0);
        let before = server.status.as_ref().and_then(|status| status.maintenance.as_ref());
        if !maintenance::concerns(server) {
            return (before.cloned(), Vec::new());
        }
        let is_underway = before.is_some_and(|before| before.state.is_underway());
        // A server that is not Ready has something else to say.
        let seen = match context.pool(server) {
            Ok(pool) if wish.is_some() && (is_underway || is_usable(server)) => pool.probe().await.ok(),
            _ => None,
        };
        let fleets = context.caches.fleets.all();
        let request = wish.map(|wish| wish.request.as_str()).unwrap_or_default();
        let busy = maintenance::busy(fleets.iter().map(|fleet| &**fleet), &server.name_any(), request);
        let now = maintenance::next(wish, before, seen.as_ref(), &busy, Timestamp::now());
        if let Some((type_, reason)) = maintenance::event(before, now.as_ref()) {
            let mut status = DatabaseServerStatus { maintenance: now.clone(), ..DatabaseServerStatus::default() };
            maintenance::tell(&mut status, None, &[]);
            let note = conditions::find(&status.conditions, READY_TO_RESTART).map(|found| found.message.clone());
            context.platform.event(server, type_, reason, note.unwrap_or_default());
        }
        (now, busy)
    }

    /// Wakes the Databases that do not say yet that their server has been unreachable for long, or is back.
    fn report_outage(&self, server: &DatabaseServer, status: &DatabaseServerStatus) {
        let context = &self.0;
        let now = DatabaseServer { status: Some(status.clone()), ..server.clone() };
        let databases = context.caches.databases.all();
        let outdated = outage::outdated(&now, databases.iter().map(|database| &**database), Timestamp::now());
        context.outages.wake(&server.name_any(), context, outdated);
    }

    async fn look(&self, server: &DatabaseServer) -> Result<Progress<DatabaseServerStatus>, Error> {
        let context = &self.0;
        context.pools.retain(|name| context.caches.servers.get(name).is_some());
        let pool = context.pool(server)?;

        if fleets::is_away(&context.caches.fleets, &pool.name) {
            pool.probe().await.map_err(|failure| failure.into_error(&pool.name))?;
        }
        let mut status = server.status.clone().unwrap_or_default();
        let names = pooler::names(&server.uid().unwrap_or_default());
        let facts = prepare::examine(&pool, &names).await?;
        let passwords = facts.passwords();
        pool.set_hides_passwords(passwords == Passwords::File);
        let facts = match passwords {
            Passwords::Lookup => Pooler { context, server, pool: &pool, names }.prepare(facts, &mut status).await?,
            Passwords::File => {
                (status.pooler_login, status.pooler_credentials) = (None, None);
                prepare::prepare_without_pooler(&pool, facts, &names).await?
            }
        };

        read_only::prove_writes(&pool).await?;

        let started = Instant::now();
        let placed = self.0.placed_on(&pool.name);
        if pool.hides_passwords() {
            passwords::find_wrong(context, &pool, &placed).await;
        }
        extensions::find_lost(&pool, &placed).await;
        let observed = observe::all(&pool).await?;
        self.sweep(server, &pool, &observed, &placed).await?;
        context.metrics.sweep.observe(started.elapsed().as_secs_f64());
        pending::find_unfinished(context, server, &pool, &observed).await?;
        pending::catch_up(context, server, &pool).await?;
        context.metrics.pending_removals(&pool.name, pending::count(context, &pool.name));
        if passwords == Passwords::Lookup {
            removed_poolers::drop_unused(context, server, &pool).await?;
        }
        pooler_secret::prune(context).await?;
        self.count_quotas();

        status.version = Some(facts.version_text.clone());
        status.databases = Some(sweep::databases(&observed, &context.cluster.id));
        status.retained = i64::try_from(pool.memory.lock().unclaimed.len()).ok();
        self.report_others(server, &ours(&observed), &mut status);
        kept::list(&pool, &ours(&observed), &context.cluster.id, &server.spec.shared_with_clusters, &mut status)
            .await?;
        status.allocated_bytes = Some(placed.iter().map(|database| storage_of(database)).sum());
        status.max_connections = Some(facts.connections());
        status.passwords = Some(passwords);
        let closed = facts.maintenance_databases().observed_generation(server.metadata.generation);
        let _ = conditions::set(&mut status.conditions, closed);
        let limited = facts.temporary_files(observed.limits_temporary_files);
        let _ = conditions::set(&mut status.conditions, limited.observed_generation(server.metadata.generation));
        self.look_at_disk(server, &pool, &placed, &mut status).await?;
        let message = format!("PostgreSQL {} is reachable and prepared", facts.version_text);
        conditions::set_verdict(&mut status.conditions, server.metadata.generation, Verdict::ready(message));
        Ok(Progress::new(status).requeue_in(next_measurement(&pool, 1)))
    }

    /// Records the databases of other clusters, and publishes an event when the first of a cluster is found.
    fn report_others(&self, server: &DatabaseServer, observed: &Observed, status: &mut DatabaseServerStatus) {
        let cluster = &self.0.cluster.id;
        let found = sweep::other_clusters(observed, cluster, &server.spec.shared_with_clusters);
        let is_new = found.iter().any(|other| status.other_clusters.iter().all(|known| known.id != other.id));
        status.other_clusters = found;
        others::settle(status, server);
        if let Some(condition) = conditions::find(&status.conditions, others::DATA_OF_OTHER_CLUSTERS).filter(|_| is_new)
        {
            self.0.platform.event(
                server,
                EventType::Warning,
                others::DATA_OF_OTHER_CLUSTERS,
                condition.message.clone(),
            );
        }
    }

    /// Writes down how full the disk is, and says so when it is nearly full.
    async fn look_at_disk(
        &self,
        server: &DatabaseServer,
        pool: &ServerPool,
        placed: &[Arc<Database>],
        status: &mut DatabaseServerStatus,
    ) -> Result<(), Error> {
        let known = {
            let memory = pool.memory.lock();
            let size = |database: &Arc<Database>| {
                let status = database.status.as_ref()?;
                let name = status.database_name.clone()?;
                let size = memory.sizes.get(&name).copied().or(status.size_bytes)?;
                Some((name, size))
            };
            placed.iter().filter_map(size).collect()
        };
        let used = disk::used(pool, &known).await?;
        let is_ok = |status: &DatabaseServerStatus| {
            conditions::find(&status.conditions, disk::DISK).is_none_or(|condition| condition.status == "True")
        };
        let was_ok = is_ok(status);
        let fraction = disk::settle(status, server, used);
        self.0.metrics.disk(&pool.name, fraction);
        if was_ok && !is_ok(status) {
            let message = conditions::find(&status.conditions, disk::DISK).map(|disk| disk.message.clone());
            self.0.platform.event(server, EventType::Warning, "DiskNearlyFull", message.unwrap_or_default());
        }
        Ok(())
    }

    /// Ends the sessions of customers whose temporary files are more than they may store.
    async fn bound_temporary_files(&self, pool: &ServerPool, wanted: &[(&Arc<Database>, Wanted)]) -> Result<(), Error> {
        let too_much = |wanted: &Wanted| {
            let held = pool.memory.lock().temporary.get(&wanted.database).copied();
            held.is_some_and(|held| disk::is_too_much(held, wanted.storage))
        };
        for (database, wanted) in wanted.iter().filter(|(_, wanted)| too_much(wanted)) {
            disk::end_sessions(pool, &wanted.database).await?;
            let note = format!(
                "ended the sessions of database {} that had temporary files: together more than its storage",
                wanted.database
            );
            warn!(server = pool.name, "{note}");
            self.0.platform.event(&***database, EventType::Warning, "TemporaryFilesRemoved", note);
        }
        Ok(())
    }

    /// The pool of a server that is reconciled for no other reason than that its databases are to be measured: nothing has
    /// happened, only time has passed. Else it is swept.
    fn between_sweeps(&self, server: &DatabaseServer) -> Option<Arc<ServerPool>> {
        if !is_ready(server) || fleets::is_away(&self.0.caches.fleets, &server.name_any()) {
            return None;
        }
        let pool = self.0.pool(server).ok()?;
        let (at, since_sweep) = pool.memory.lock().next_measurement?;
        (Instant::now() >= at && since_sweep < measure::IN_A_SWEEP).then_some(pool)
    }

    /// Measures the databases that were written to, and nothing else.
    async fn measure_again(
        &self,
        server: &DatabaseServer,
        pool: &ServerPool,
    ) -> Result<Progress<DatabaseServerStatus>, Error> {
        let placed = self.0.placed_on(&pool.name);
        let wanted: Vec<_> = placed.iter().filter_map(|database| Some((database, size_wanted(database)?))).collect();
        measure::measure(pool, &wanted.iter().map(|(_, wanted)| wanted).collect::<Vec<_>>()).await?;
        self.bound_temporary_files(pool, &wanted).await?;
        let news = |memory: &sweep::Memory, database: &Database, wanted: &Wanted| {
            sweep::opens_or_closes(wanted, memory) || is_ready(database) && sweep::is_size_news(wanted, memory)
        };
        let memory = pool.memory.lock();
        for (database, _) in wanted.iter().filter(|(database, wanted)| news(&memory, database, wanted)) {
            self.0.trigger.request(&ObjectRef::from_obj(&***database));
        }
        let since_sweep = memory.next_measurement.map_or(1, |(_, since_sweep)| since_sweep + 1);
        drop(memory);
        Ok(Progress::new(server.status.clone().unwrap_or_default()).requeue_in(next_measurement(pool, since_sweep)))
    }

    /// Compares every database with its object, and has those looked at that differ.
    async fn sweep(
        &self,
        server: &DatabaseServer,
        pool: &ServerPool,
        observed: &Observed,
        placed: &[Arc<Database>],
    ) -> Result<(), Error> {
        let wanted: Vec<_> = placed.iter().filter_map(|database| Some((database, self.wanted(database)?))).collect();
        {
            let mut memory = pool.memory.lock();
            memory.round = memory.round.wrapping_add(1);
        }
        measure::measure(pool, &wanted.iter().map(|(_, wanted)| wanted).collect::<Vec<_>>()).await?;
        self.bound_temporary_files(pool, &wanted).await?;
        {
            let memory = pool.memory.lock();
            let unknown = |wanted: &Wanted| {
                let is_known =
                    |desired: &&Desired| observed.hidden || verifiers::are_known(&self.0, &desired.names.database);
                let mut desired = wanted.desired.iter().filter(is_known);
                desired.any(|desired| !verifiers::has(&self.0, &desired.names.login, &desired.verifier))
            };
            let differs = |wanted: &Wanted| {
                sweep::needs_a_look(wanted, observed, &memory)
                    || sweep::opens_or_closes(wanted, &memory)
                    || unknown(wanted)
            };
            for (database, _) in wanted.iter().filter(|(_, wanted)| differs(wanted)) {
                self.0.trigger.request(&ObjectRef::from_obj(&***database));
            }
        }
        self.close_orphans(server, pool, observed).await
    }

    fn wanted(&self, database: &Database) -> Option<Wanted> {
        let wanted = size_wanted(database)?;
        Some(Wanted { desired: self.desired(database, &wanted.database), ..wanted })
    }

    /// What a settled object wants; the others look for themselves.
    fn desired(&self, database: &Database, name: &str) -> Option<Desired> {
        let context = &self.0;
        let namespace = database.namespace()?;
        let binding = context.caches.bindings.cache().get_in(&namespace, &secret::name_of(&database.name_any()))?;
        let verifier = secret::verifier(&binding)?;
        let access = Level::read(&database.status.as_ref()?.conditions).into();
        let (names, other) = database::logins(database.status.as_ref()?, Some(&binding), name);
        let desired = Desired::of(database, &context.cluster, names, &verifier, other, access).ok()?;
        is_ready(database).then_some(desired)
    }

    fn count_quotas(&self) {
        let databases = self.0.caches.databases.all();
        let over = |database: &&Arc<Database>| {
            database.status.as_ref().is_some_and(|status| Level::read(&status.conditions) >= Level::Exceeded)
        };
        // As the status tells, which is as of the last change that was worth telling.
        let used = databases.iter().filter_map(|database| {
            let size = database.status.as_ref()?.size_bytes?;
            let storage = storage_of(database);
            // Sizes that matter are small enough for a float.
            #[allow(clippy::cast_precision_loss)]
            (storage > 0).then(|| (database.namespace().unwrap_or_default(), size as f64 / storage as f64))
        });
        self.0.metrics.quotas(databases.iter().filter(over).count(), used);
    }

    /// Databases whose object went without this controller's help: their logins are closed and their data kept.
    async fn close_orphans(
        &self,
        server: &DatabaseServer,
        pool: &ServerPool,
        observed: &Observed,
    ) -> Result<(), Error> {
        let context = &self.0;
        let databases = &context.caches.databases;
        let mut uids: HashSet<_> = databases.all().iter().filter_map(|database| database.uid()).collect();
        // They exist, so their databases have lost nothing.
        uids.extend(databases.unreadable_uids());
        let (found, first_alarm) = {
            let mut memory = pool.memory.lock();
            let found = sweep::orphans(&ours(observed), &context.cluster.id, &uids, &mut memory);
            let first = found.too_many.is_some() && !std::mem::replace(&mut memory.alarmed, found.too_many.is_some());
            (found, first)
        };
        if first_alarm {
            let note =
                "many databases on this server have no object any more; nothing is closed until somebody has looked";
            warn!(server = pool.name, count = found.too_many, "{note}");
            context.platform.event(server, EventType::Warning, "ManyOrphans", note);
        }
        for Orphan { names, stamp } in found.close {
            let about = observe::owner_of(pool, &names).await?;
            let identity = Identity::stamped(&stamp, about);
            match database::cleanup::close(pool, &names, &identity).await {
                Err(error @ Error::Waiting { .. }) => return Err(error),
                // Of one database this says something, of the server nothing.
                Err(error) => {
                    warn!(server = pool.name, database = names.database, "cannot close the logins: {error}");
                    continue;
                }
                Ok(()) => {}
            }
            verifiers::forget(context, &names).await?;
            let note = format!(
                "database {} has lost its Database {}/{}: its login is closed and its data kept",
                names.database, identity.namespace, identity.name
            );
            info!("{note}");
            context.platform.event(server, EventType::Warning, "OrphanClosed", note);
        }
        Ok(())
    }
}

/// Where the admin role is an ordinary one, it can do nothing about databases that another role has made.
fn ours(observed: &Observed) -> Cow<'_, Observed> {
    if !observed.hidden {
        return Cow::Borrowed(observed);
    }
    let mut ours = observed.clone();
    ours.databases.retain(|_, database| database.owner == observed.operator);
    Cow::Owned(ours)
}

/// When the server is to be reconciled next. Sooner than that something has happened, and it is swept.
fn next_measurement(pool: &ServerPool, since_sweep: u32) -> Duration {
    let interval = measure::INTERVAL.mul_f64(rand::rng().random_range(0.8..1.2));
    pool.memory.lock().next_measurement = Some((Instant::now() + interval, since_sweep));
    interval
}

/// What a measurement needs to know about a database.
fn size_wanted(database: &Database) -> Option<Wanted> {
    let status = database.status.as_ref()?;
    Some(Wanted {
        desired: None,
        database: status.database_name.clone()?,
        storage: storage_of(database),
        told: status.size_bytes,
        level: Level::read(&status.conditions),
    })
}

fn storage_of(database: &Database) -> i64 {
    database.spec.storage.bytes().unwrap_or_default()
}

fn cannot_reach(server: &DatabaseServer) -> Verdict {
    let spec = &server.spec;
    let message = format!(
        "PostgreSQL at {} port {} cannot be reached; see that it runs and that this controller may connect to it",
        spec.host, spec.port
    );
    Verdict::stalled(UNREACHABLE, message)
}

/// What else is known of the server stays as it was.
fn stalled(server: &DatabaseServer, verdict: Verdict, again: Duration) -> Progress<DatabaseServerStatus> {
    let mut status = server.status.clone().unwrap_or_default();
    conditions::set_verdict(&mut status.conditions, server.metadata.generation, verdict);
    Progress::new(status).requeue_in(again)
}

#[cfg(test)]
mod tests {
    use ahoi_reconcile::testing::ApiServer;

    use super::*;
    use crate::context::tests::{context, server};

    /// Nobody tells when a password or a certificate fits again, and everything on the server waits for it.
    #[tokio::test]
    async fn a_server_that_refuses_us_is_tried_again_soon_and_its_maintenance_ends() {
        let mut refusing = server("pg-1");
        let withdrawn =
            r#"{"request": "now", "state": "Pausing", "until": "2026-01-01T00:00:00Z", "serverStarted": "then"}"#;
        let status = refusing.status.get_or_insert_default();
        status.maintenance = Some(serde_json::from_str(withdrawn).unwrap());
        let servers = Servers(Arc::new(context(&ApiServer::new(), vec![refusing.clone()], vec![], vec![])));
        let progress = servers.reconcile(&refusing).await.unwrap();
        let stalled = conditions::find(&progress.status.conditions, conditions::STALLED).unwrap();
        assert_eq!((stalled.reason.as_str(), progress.requeue), ("SecretNotFound", Some(RETRY_REFUSED)));
        let told = progress.status.maintenance;
        assert!(told.is_none_or(|maintenance| !maintenance.state.is_underway()));
    }
}
