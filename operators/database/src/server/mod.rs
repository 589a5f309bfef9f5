//! DatabaseServer: reached, prepared once, and swept every minute.

mod pool;
mod pooler;
mod prepare;
mod sweep;
mod tls;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ahoi_api::{Database, DatabaseServer, DatabaseServerStatus};
use ahoi_reconcile::{Error, EventType, ObjectRef, Progress, Reconciler, Verdict, conditions, is_ready};
use kube::ResourceExt;
use rand::Rng;
use tracing::{info, warn};

pub use self::pool::{AdminLogin, Failure, Pools, SERVER_UNREACHABLE, ServerPool, unreachable};
use self::sweep::{Orphan, Wanted};
pub use self::tls::{CA, authorities};
use crate::context::Context;
use crate::database::{self, Desired, Identity, Names, Observed};
use crate::quota::Level;
use crate::secret;

/// The reason a DatabaseServer is not Ready while it cannot be reached.
pub const UNREACHABLE: &str = "Unreachable";
/// How often a server that cannot be reached is tried.
const RETRY: Duration = Duration::from_secs(5);

/// The controller of DatabaseServers.
pub struct Servers(pub Arc<Context>);

impl Reconciler for Servers {
    type Kind = DatabaseServer;
    const NAME: &'static str = "database-server";

    async fn reconcile(&self, server: &DatabaseServer) -> Result<Progress<DatabaseServerStatus>, Error> {
        match self.look(server).await {
            // Whatever is waited for here, it is the server.
            Err(Error::Waiting { .. }) => Ok(cannot_reach(server)),
            outcome => outcome,
        }
    }
}

impl Servers {
    async fn look(&self, server: &DatabaseServer) -> Result<Progress<DatabaseServerStatus>, Error> {
        let context = &self.0;
        context.pools.retain(|name| context.caches.servers.get(name).is_some());
        let pool = context.pool(server)?;

        let login = prepare::pooler_login(&server.uid().unwrap_or_default());
        let facts = prepare::examine(&pool, &login).await?;
        let password = pooler::password(context, &pool.name).await?;
        let facts = prepare::prepare(&pool, facts, &prepare::Pooler { login: login.clone(), password }).await?;

        let started = Instant::now();
        let observed = database::observe_all(&pool).await?;
        let placed = self.placed_on(&pool.name);
        self.sweep(server, &pool, &observed, &placed).await?;
        context.metrics.sweep.observe(started.elapsed().as_secs_f64());

        let mut status = server.status.clone().unwrap_or_default();
        status.version = Some(facts.version_text.clone());
        status.databases = Some(sweep::databases(&observed, &context.cluster.id));
        status.allocated_bytes = Some(placed.iter().map(|database| storage_of(database)).sum());
        status.pooler_login = Some(login);
        let message = format!("PostgreSQL {} is reachable and prepared", facts.version_text);
        conditions::settle(&mut status.conditions, server.metadata.generation, Verdict::ready(message));
        let interval = Duration::from_secs(60).mul_f64(rand::rng().random_range(0.8..1.2));
        Ok(Progress::new(status).requeue_in(interval))
    }

    fn placed_on(&self, server: &str) -> Vec<Arc<Database>> {
        let mut databases = self.0.caches.databases.all();
        databases
            .retain(|database| database.status.as_ref().is_some_and(|status| status.server.as_deref() == Some(server)));
        databases
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
        self.measure(pool, wanted.iter().map(|(_, wanted)| wanted)).await?;
        {
            let memory = pool.memory.lock();
            for (database, _) in wanted.iter().filter(|(_, wanted)| sweep::needs_a_look(wanted, observed, &memory)) {
                self.0.waker.wake(&ObjectRef::from_obj(&***database));
            }
        }
        self.close_orphans(server, pool, observed).await
    }

    fn wanted(&self, database: &Database) -> Option<Wanted> {
        let status = database.status.as_ref()?;
        let name = status.database_name.clone()?;
        Some(Wanted {
            desired: self.desired(database, &name),
            database: name,
            storage: storage_of(database),
            told: status.size_bytes,
            level: Level::read(&status.conditions),
        })
    }

    /// What a settled object wants; the others look for themselves.
    fn desired(&self, database: &Database, name: &str) -> Option<Desired> {
        let context = &self.0;
        let namespace = database.namespace()?;
        let binding = context.caches.bindings.cache().get_in(&namespace, &secret::name_of(&database.name_any()))?;
        let verifier = secret::verifier(&binding)?;
        let frozen = Level::read(&database.status.as_ref()?.conditions) == Level::Exceeded;
        let desired = Desired::of(database, &context.cluster, Names::of(name), &verifier, frozen).ok()?;
        is_ready(database).then_some(desired)
    }

    async fn measure(&self, pool: &ServerPool, wanted: impl Iterator<Item = &Wanted>) -> Result<(), Error> {
        let due = {
            let mut memory = pool.memory.lock();
            memory.round = memory.round.wrapping_add(1);
            sweep::to_measure(wanted, &memory)
        };
        if due.is_empty() {
            return Ok(());
        }
        let sizes = pool.sizes(&due).await.map_err(|failure| failure.into_error(&pool.name))?;
        pool.memory.lock().sizes.extend(sizes);
        Ok(())
    }

    /// Databases whose object went without this controller's help: their logins are closed and their data kept.
    async fn close_orphans(
        &self,
        server: &DatabaseServer,
        pool: &ServerPool,
        observed: &Observed,
    ) -> Result<(), Error> {
        let context = &self.0;
        let uids: HashSet<_> = context.caches.databases.all().iter().filter_map(|database| database.uid()).collect();
        let (found, first_alarm) = {
            let mut memory = pool.memory.lock();
            let found = sweep::orphans(observed, &context.cluster.id, &uids, &mut memory);
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
            let about = database::owner_of(pool, &names).await?;
            let identity = Identity::stamped(&stamp, about);
            database::close(pool, &names, &identity).await?;
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

fn storage_of(database: &Database) -> i64 {
    database.spec.storage.bytes().unwrap_or_default()
}

fn cannot_reach(server: &DatabaseServer) -> Progress<DatabaseServerStatus> {
    let mut status = server.status.clone().unwrap_or_default();
    let spec = &server.spec;
    let message = format!(
        "PostgreSQL at {} port {} cannot be reached; see that it runs and that this controller may connect to it",
        spec.host, spec.port
    );
    conditions::settle(&mut status.conditions, server.metadata.generation, Verdict::stalled(UNREACHABLE, message));
    Progress::new(status).requeue_in(RETRY)
}
