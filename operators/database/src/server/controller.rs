//! The reconcile of a DatabaseServer.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ahoi_api::{
    Database, DatabaseServer, DatabaseServerStatus, MaintenanceStatus, Passwords, READY_TO_RESTART, Reason, finalizers,
};
use ahoi_reconcile::{Controller, Error, Platform, Progress, Reconciler, Verdict, conditions, is_ready};
use jiff::Timestamp;
use kube::ResourceExt;

use super::pooler::{self, Pooler};
use super::status::{self, Swept};
use super::{cleanup, databases, extensions, fleets, maintenance, measure, passwords, pooler_secret, removed_poolers};
use crate::caches::Caches;
use crate::context::Context;
use crate::memory::Instance;
use crate::outage::{self, is_usable};
use crate::pending;
use crate::postgres::failure::read_only;
use crate::postgres::model::Observed;
use crate::postgres::observe;
use crate::postgres::prepare::{self, Facts};
use crate::postgres::read_only::prove_writes;

/// Delay until an unreachable server is tried again.
const RETRY: Duration = Duration::from_secs(5);
/// Delay until a server that refuses is tried again: no watch reports that an administrator has corrected it.
const RETRY_REFUSED: Duration = Duration::from_secs(15);
/// Interval of reconciles during a maintenance.
const MAINTENANCE_INTERVAL: Duration = Duration::from_secs(1);

/// The controller of DatabaseServers.
pub struct DatabaseServerController(pub Arc<Context>);

impl DatabaseServerController {
    /// Which changes trigger a reconcile.
    pub fn watch(platform: &Platform, caches: &Caches) -> Controller<DatabaseServer> {
        Controller::new(platform, &caches.servers)
            .watches(&caches.secrets, caches.servers_of_secret())
            .watches(&caches.fleets, fleets::servers_of_fleet(&caches.fleets))
    }

    /// A sweep, stage by stage: prepares the server, compares all databases with their objects, and catches up on removals.
    async fn sweep(&self, server: &DatabaseServer) -> Result<Progress<DatabaseServerStatus>, Error> {
        let mut status = server.status.clone().unwrap_or_default();
        let instance = self.connect(server).await?;
        let facts = self.prepare(server, &instance, &mut status).await?;

        let started = Instant::now();
        let placed = self.0.placed_on(&instance.name);
        let observed = self.observe(&instance, &placed).await?;
        databases::compare(&self.0, &instance, &observed, &placed).await?;
        databases::close_orphans(&self.0, server, &instance, &observed).await?;
        self.0.metrics.sweep.observe(started.elapsed().as_secs_f64());

        self.catch_up(server, &instance, &observed, facts.passwords()).await?;
        let swept = Swept { server, instance: &instance, facts: &facts, observed: &observed, placed: &placed };
        status::status(&self.0, &swept, status).await
    }

    /// Connects to the server. If an agent reports it as unreachable, it is probed first.
    async fn connect(&self, server: &DatabaseServer) -> Result<Instance, Error> {
        self.0.forget_deleted_servers();
        let instance = self.0.instance(server)?;
        if fleets::is_unreachable(&self.0.caches.fleets, &instance.name) {
            instance.postgres.probe().await.map_err(|failure| failure.into_error(&instance.name))?;
        }
        Ok(instance)
    }

    /// Prepares the server for databases and poolers.
    async fn prepare(
        &self,
        server: &DatabaseServer,
        instance: &Instance,
        status: &mut DatabaseServerStatus,
    ) -> Result<Facts, Error> {
        let (context, postgres) = (&self.0, &*instance.postgres);
        let names = pooler::names(&server.uid().unwrap_or_default());
        let facts = prepare::examine(postgres, &names).await?;
        let passwords = facts.passwords();
        postgres.set_hides_passwords(passwords == Passwords::File);
        let facts = match passwords {
            Passwords::Lookup => Pooler { context, server, instance, names, facts }.prepare(status).await?,
            Passwords::File => {
                (status.pooler_login, status.pooler_credentials) = (None, None);
                prepare::prepare_without_pooler(postgres, facts, &names).await?
            }
        };
        prove_writes(postgres).await?;
        Ok(facts)
    }

    /// Reads all databases and roles of Ahoi, with the corrections that only attempts can find.
    async fn observe(&self, instance: &Instance, placed: &[Arc<Database>]) -> Result<Observed, Error> {
        if instance.postgres.hides_passwords() {
            passwords::find_wrong(&self.0, instance, placed).await;
        }
        extensions::find_lost(instance, placed).await;
        let mut observed = observe::all(&instance.postgres).await?;
        instance.memory.lock().corrections.apply(&mut observed);
        Ok(observed)
    }

    /// Carries out pending removals, and removes the logins of deleted servers.
    async fn catch_up(
        &self,
        server: &DatabaseServer,
        instance: &Instance,
        observed: &Observed,
        passwords: Passwords,
    ) -> Result<(), Error> {
        let context = &self.0;
        pending::find_unfinished(context, server, instance, observed).await?;
        pending::catch_up(context, server, instance).await?;
        context.metrics.pending_removals(&instance.name, pending::count(context, &instance.name));
        if passwords == Passwords::Lookup {
            removed_poolers::drop_unused(context, server, instance).await?;
        }
        pooler_secret::prune(context).await
    }
}

impl Reconciler for DatabaseServerController {
    type Kind = DatabaseServer;
    const NAME: &'static str = "database-server";
    const FINALIZER: Option<&'static str> = Some(finalizers::DATABASE_SERVER);

    async fn reconcile(&self, server: &DatabaseServer) -> Result<Progress<DatabaseServerStatus>, Error> {
        let (maintenance, busy) = self.maintain(server).await;
        let is_underway = maintenance.as_ref().is_some_and(|maintenance| maintenance.state.is_underway());
        let mut progress = if is_underway {
            Progress::new(server.status.clone().unwrap_or_default()).requeue_in(MAINTENANCE_INTERVAL)
        } else {
            self.sweep_or_measure(server).await?
        };
        self.report_outage(server, &progress.status);
        progress.status.maintenance = maintenance;
        maintenance::set_conditions(&mut progress.status, server.metadata.generation, &busy);
        Ok(progress)
    }

    async fn cleanup(&self, server: &DatabaseServer) -> Result<(), Error> {
        cleanup::remove(&self.0, server).await
    }
}

impl DatabaseServerController {
    /// Sweeps the server, or only measures its databases between two sweeps.
    async fn sweep_or_measure(&self, server: &DatabaseServer) -> Result<Progress<DatabaseServerStatus>, Error> {
        let outcome = match self.between_sweeps(server) {
            Some(instance) => databases::measure(&self.0, server, &instance).await,
            None => self.sweep(server).await,
        };
        let servers = &self.0.caches.servers;
        self.0.metrics.server(&server.name_any(), outcome.is_ok(), |name| servers.get(name).is_some());
        match outcome {
            Err(Error::Waiting { reason, .. }) if reason == Reason::DatabaseServerReadOnly => {
                let found = read_only(&server.name_any(), false);
                Ok(stalled(server, Verdict::from(&found), RETRY_REFUSED))
            }
            // A server waits for nothing but itself.
            Err(Error::Waiting { .. }) => Ok(stalled(server, unreachable(server), RETRY)),
            Err(Error::Structural { reason, message }) => {
                Ok(stalled(server, Verdict::stalled(reason, message), RETRY_REFUSED))
            }
            outcome => outcome,
        }
    }

    /// The server, if it is reconciled only because the next measurement of its databases is due. Otherwise it is swept.
    fn between_sweeps(&self, server: &DatabaseServer) -> Option<Instance> {
        if !is_ready(server) || fleets::is_unreachable(&self.0.caches.fleets, &server.name_any()) {
            return None;
        }
        let instance = self.0.instance(server).ok()?;
        let (at, since_sweep) = instance.memory.lock().next_measurement?;
        (Instant::now() >= at && since_sweep < measure::IN_A_SWEEP).then_some(instance)
    }

    /// Progress of a planned maintenance, and the pooler processes that are not quiet yet. Makes no request at rest.
    async fn maintain(&self, server: &DatabaseServer) -> (Option<MaintenanceStatus>, Vec<String>) {
        let (request, context) = (server.spec.maintenance.as_ref(), &self.0);
        let before = server.status.as_ref().and_then(|status| status.maintenance.as_ref());
        if !maintenance::concerns(server) {
            return (before.cloned(), Vec::new());
        }
        let is_underway = before.is_some_and(|before| before.state.is_underway());
        // A server that is not Ready begins no maintenance.
        let probe = match context.instance(server) {
            Ok(instance) if request.is_some() && (is_underway || is_usable(server)) => {
                instance.postgres.probe().await.ok()
            }
            _ => None,
        };
        let fleets = context.caches.fleets.all();
        let id = request.map(|request| request.request.as_str()).unwrap_or_default();
        let busy = maintenance::busy(fleets.iter().map(|fleet| &**fleet), &server.name_any(), id);
        let now = maintenance::next(request, before, probe.as_ref(), &busy, Timestamp::now());
        if let Some((type_, reason)) = maintenance::event(before, now.as_ref()) {
            let mut status = DatabaseServerStatus { maintenance: now.clone(), ..DatabaseServerStatus::default() };
            maintenance::set_conditions(&mut status, None, &[]);
            let note = conditions::find(&status.conditions, READY_TO_RESTART).map(|found| found.message.clone());
            context.platform.event(server, type_, reason, note.unwrap_or_default());
        }
        (now, busy)
    }

    /// Triggers the Databases that do not report the begin or the end of a long outage yet.
    fn report_outage(&self, server: &DatabaseServer, status: &DatabaseServerStatus) {
        let context = self.0.clone();
        let now = DatabaseServer { status: Some(status.clone()), ..server.clone() };
        let databases = context.caches.databases.all();
        let outdated = outage::outdated(&now, databases.iter().map(|database| &**database), Timestamp::now());
        self.0.outages.trigger(&server.name_any(), outdated, move |database| context.trigger.request(database));
    }
}

fn unreachable(server: &DatabaseServer) -> Verdict {
    let spec = &server.spec;
    let message = format!(
        "PostgreSQL at {} port {} is unreachable: check that it is running and accepts connections of this controller",
        spec.host, spec.port
    );
    Verdict::stalled(Reason::DatabaseServerUnreachable, message)
}

/// The present status with another verdict.
fn stalled(server: &DatabaseServer, verdict: Verdict, again: Duration) -> Progress<DatabaseServerStatus> {
    let mut status = server.status.clone().unwrap_or_default();
    conditions::set_verdict(&mut status.conditions, server.metadata.generation, verdict);
    Progress::new(status).requeue_in(again)
}

#[cfg(test)]
mod tests;
