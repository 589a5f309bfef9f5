//! Makes clients wait while their server is away, and serves them again: at once, whatever the agent's loop is doing.
//!
//! The loop compares what is paused with what should be at every turn, as pgbouncer forgets it when it starts; what
//! happens here in between only saves the time until then.

use std::collections::{BTreeMap, BTreeSet};
use std::future::pending;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ahoi_api::{DatabaseServer, HeldServer};
use ahoi_pgbouncer::console::{Console, Database};
use ahoi_pgbouncer::hold::{Heard, Hold, Server, Way, hold, report};
use ahoi_reconcile::Cache;
use k8s_openapi::jiff::Timestamp;
use tokio::sync::{Notify, watch};
use tokio::time::{sleep, timeout};
use tokio_util::task::AbortOnDropHandle;
use tracing::{debug, info};

use crate::canary;

/// How long a process that starts waits for the first news of its servers.
const FIRST_NEWS: Duration = Duration::from_secs(2);

/// Everything by what pgbouncer calls the server's database for looking up passwords.
type By<T> = BTreeMap<String, T>;

/// The servers of this process, and which of them are held.
pub struct Holds {
    servers: watch::Sender<By<Server>>,
    heard: watch::Sender<By<Heard>>,
    held: watch::Receiver<By<Hold>>,
    objects: Cache<DatabaseServer>,
    /// Notified when pgbouncer was refused by a server.
    alarm: Arc<Notify>,
    canaries: By<(Way, AbortOnDropHandle<()>)>,
    _task: AbortOnDropHandle<()>,
}

impl Holds {
    /// Holds what there is to hold at the pgbouncer whose console is in `directory`.
    pub fn start(directory: PathBuf, port: u16, objects: Cache<DatabaseServer>, alarm: Arc<Notify>) -> Holds {
        let (servers, routed) = watch::channel(By::new());
        let (heard, news) = watch::channel(By::new());
        let (tell, held) = watch::channel(By::new());
        let holder = Holder { directory, port, objects: objects.clone(), routed, news, tell, paused: BTreeSet::new() };
        let task = AbortOnDropHandle::new(tokio::spawn(holder.run()));
        Holds { servers, heard, held, objects, alarm, canaries: By::new(), _task: task }
    }

    /// Tells of each change of what is held.
    pub fn changes(&self) -> watch::Receiver<By<Hold>> {
        self.held.clone()
    }

    /// From now on it is about these servers. The first time it waits a moment for news of them, so that a process which
    /// starts while a server is away does not begin with failures.
    pub async fn serve(&mut self, servers: By<Server>) {
        self.canaries.retain(|alias, (way, _)| servers.get(alias).is_some_and(|server| server.way == *way));
        let first = self.heard.borrow().is_empty();
        self.heard.send_if_modified(|heard| {
            let before = heard.len();
            heard.retain(|alias, _| servers.contains_key(alias));
            heard.len() != before
        });
        for (alias, server) in &servers {
            if !self.canaries.contains_key(alias) {
                self.canaries.insert(alias.clone(), (server.way.clone(), self.watch(alias, &server.way)));
            }
        }
        self.servers.send_if_modified(|before| {
            let differs = *before != servers;
            before.clone_from(&servers);
            differs
        });
        if first {
            let mut news = self.heard.subscribe();
            let all = news.wait_for(|heard| servers.keys().all(|alias| heard.contains_key(alias)));
            let _ = timeout(FIRST_NEWS, all).await;
        }
    }

    fn watch(&self, alias: &str, way: &Way) -> AbortOnDropHandle<()> {
        let (heard, alias) = (self.heard.clone(), alias.to_owned());
        let tell = move |news: Heard| {
            heard.send_if_modified(|all| all.insert(alias.clone(), news.clone()).as_ref() != Some(&news));
        };
        AbortOnDropHandle::new(tokio::spawn(canary::watch(way.clone(), self.alarm.clone(), tell)))
    }

    /// The databases whose clients wait because of their server.
    pub fn databases(&self) -> BTreeSet<String> {
        let held = decide(&self.servers.borrow(), &self.heard.borrow(), &self.objects);
        names(&held, &self.servers.borrow())
    }

    /// How many servers are held.
    pub fn held(&self) -> usize {
        self.held.borrow().len()
    }

    /// What to say of it, given the databases as pgbouncer has them.
    pub fn report(&self, databases: &BTreeMap<String, Database>) -> Vec<HeldServer> {
        let servers = self.servers.borrow();
        let held = decide(&servers, &self.heard.borrow(), &self.objects);
        // A server that is to be restarted wants to hear also of those who have nothing to do with it.
        let strangers: Vec<(String, Hold)> = (self.objects.all().iter())
            .filter_map(|object| Some((object.metadata.name.clone()?, maintenance(object)?)))
            .filter(|(name, _)| servers.values().all(|server| server.way.server != *name))
            .collect();
        let ours = held.iter().filter_map(|(alias, hold)| {
            let server = servers.get(alias)?;
            Some((server.way.server.as_str(), hold, server.databases.keys().collect()))
        });
        let strangers = strangers.iter().map(|(name, hold)| (name.as_str(), hold, Vec::new()));
        report(ours.chain(strangers), databases)
    }
}

fn maintenance(object: &DatabaseServer) -> Option<Hold> {
    hold(None, object.status.as_ref()?.maintenance.as_ref(), Timestamp::now())
}

fn decide(servers: &By<Server>, heard: &By<Heard>, objects: &Cache<DatabaseServer>) -> By<Hold> {
    let now = Timestamp::now();
    let held = servers.iter().filter_map(|(alias, server)| {
        let object = objects.get(&server.way.server);
        let maintenance = object.as_ref().and_then(|object| object.status.as_ref()?.maintenance.as_ref());
        Some((alias.clone(), hold(heard.get(alias), maintenance, now)?))
    });
    held.collect()
}

fn names(held: &By<Hold>, servers: &By<Server>) -> BTreeSet<String> {
    let held = held.keys().filter_map(|alias| servers.get(alias));
    held.flat_map(|server| server.databases.keys().cloned()).collect()
}

/// The task that does it.
struct Holder {
    directory: PathBuf,
    port: u16,
    objects: Cache<DatabaseServer>,
    routed: watch::Receiver<By<Server>>,
    news: watch::Receiver<By<Heard>>,
    tell: watch::Sender<By<Hold>>,
    /// What this task has paused, and not resumed.
    paused: BTreeSet<String>,
}

impl Holder {
    async fn run(mut self) {
        let mut objects = self.objects.changes();
        loop {
            self.act().await;
            let over = self.over();
            tokio::select! {
                Ok(()) = self.routed.changed() => {}
                Ok(()) = self.news.changed() => {}
                Ok(()) = objects.changed() => {}
                () = over => {}
            }
        }
    }

    async fn act(&mut self) {
        let servers = self.routed.borrow_and_update().clone();
        let held = decide(&servers, &self.news.borrow_and_update(), &self.objects);
        let wanted = names(&held, &servers);
        let waits_anyway = |name: &String| servers.values().any(|server| server.databases.get(name) == Some(&true));
        let pause: Vec<String> = wanted.difference(&self.paused).cloned().collect();
        let resume: Vec<String> = self.paused.difference(&wanted).filter(|name| !waits_anyway(name)).cloned().collect();
        self.paused = wanted;
        let before = self.tell.borrow().clone();
        for (alias, hold) in held.iter().filter(|(alias, hold)| before.get(*alias) != Some(hold)) {
            info!(server = servers.get(alias).map(|server| &server.way.server), ?hold, "clients wait");
        }
        for alias in before.keys().filter(|alias| !held.contains_key(*alias)) {
            info!(server = servers.get(alias).map(|server| &server.way.server), "clients are served again");
        }
        if let Err(error) = self.order(&pause, &resume).await {
            // It does not run; the agent's loop will make it so when it does.
            debug!(%error, "pgbouncer was not told");
        }
        if held != before {
            self.tell.send_replace(held);
        }
    }

    async fn order(&self, pause: &[String], resume: &[String]) -> anyhow::Result<()> {
        if !pause.is_empty() {
            Console::pause_at(&self.directory, self.port, pause).await?;
        }
        if !resume.is_empty() {
            Console::connect(&self.directory, self.port).await?.resume(resume).await?;
        }
        Ok(())
    }

    /// Returns when the first maintenance that goes on has gone on for long enough, whoever is to say so.
    fn over(&self) -> impl Future<Output = ()> + 'static {
        let now = Timestamp::now();
        let ends = self.objects.all().into_iter().filter_map(|object| {
            let maintenance = object.status.as_ref()?.maintenance.as_ref()?;
            maintenance.state.is_underway().then_some(maintenance.until.0)
        });
        let left = ends.filter(|end| *end > now).min().map(|end| end.duration_since(now).unsigned_abs());
        async move {
            match left {
                Some(left) => sleep(left + Duration::from_millis(10)).await,
                None => pending().await,
            }
        }
    }
}
