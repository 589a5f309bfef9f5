//! Pauses the pools of a server while it is unreachable, and resumes them: at once, whatever the agent's loop is doing.
//!
//! At every reconcile the loop compares what pgbouncer has paused with what it should, as a restarted pgbouncer has paused
//! nothing. This task only saves the time until then.

use std::collections::{BTreeMap, BTreeSet};
use std::future::pending;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ahoi_api::{DatabaseServer, HeldServer};
use ahoi_pgbouncer::console::{Console, Database};
use ahoi_pgbouncer::hold::{Endpoint, Hold, Server, ServerState, hold, report};
use ahoi_reconcile::Cache;
use k8s_openapi::jiff::Timestamp;
use tokio::sync::{Notify, watch};
use tokio::time::{sleep, timeout};
use tokio_util::task::AbortOnDropHandle;
use tracing::{debug, info};

use crate::probe;

/// Maximum time for which a new process waits for the first probes of its servers.
const FIRST_PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// By name of the server's auth_query database in pgbouncer.
type ByAlias<T> = BTreeMap<String, T>;

/// The servers of this process, and which of them are held.
pub struct Holds {
    servers: watch::Sender<ByAlias<Server>>,
    states: watch::Sender<ByAlias<ServerState>>,
    held: watch::Receiver<ByAlias<Hold>>,
    objects: Cache<DatabaseServer>,
    /// Notified when a server refused a login of pgbouncer.
    alarm: Arc<Notify>,
    probes: ByAlias<(Endpoint, AbortOnDropHandle<()>)>,
    _task: AbortOnDropHandle<()>,
}

impl Holds {
    /// Starts to hold servers at the pgbouncer whose console is in `directory`.
    pub fn start(directory: PathBuf, port: u16, objects: Cache<DatabaseServer>, alarm: Arc<Notify>) -> Holds {
        let (servers, routed) = watch::channel(ByAlias::new());
        let (states, probed) = watch::channel(ByAlias::new());
        let (publish, held) = watch::channel(ByAlias::new());
        let holder =
            Holder { directory, port, objects: objects.clone(), routed, probed, publish, paused: BTreeSet::new() };
        let task = AbortOnDropHandle::new(tokio::spawn(holder.run()));
        Holds { servers, states, held, objects, alarm, probes: ByAlias::new(), _task: task }
    }

    /// Notifies of each change of the held servers.
    pub fn changes(&self) -> watch::Receiver<ByAlias<Hold>> {
        self.held.clone()
    }

    /// Sets the servers. The first time this waits for their first probes, so that a process that starts while a server is
    /// unreachable does not begin with errors.
    pub async fn serve(&mut self, servers: ByAlias<Server>) {
        self.probes
            .retain(|alias, (endpoint, _)| servers.get(alias).is_some_and(|server| server.endpoint == *endpoint));
        let first = self.states.borrow().is_empty();
        self.states.send_if_modified(|states| {
            let before = states.len();
            states.retain(|alias, _| servers.contains_key(alias));
            states.len() != before
        });
        for (alias, server) in &servers {
            if !self.probes.contains_key(alias) {
                self.probes.insert(alias.clone(), (server.endpoint.clone(), self.watch(alias, &server.endpoint)));
            }
        }
        self.servers.send_if_modified(|before| {
            let differs = *before != servers;
            before.clone_from(&servers);
            differs
        });
        if first {
            let mut states = self.states.subscribe();
            let all = states.wait_for(|states| servers.keys().all(|alias| states.contains_key(alias)));
            let _ = timeout(FIRST_PROBE_TIMEOUT, all).await;
        }
    }

    fn watch(&self, alias: &str, endpoint: &Endpoint) -> AbortOnDropHandle<()> {
        let (states, alias) = (self.states.clone(), alias.to_owned());
        let report = move |state: ServerState| {
            states.send_if_modified(|all| all.insert(alias.clone(), state.clone()).as_ref() != Some(&state));
        };
        AbortOnDropHandle::new(tokio::spawn(probe::watch(endpoint.clone(), self.alarm.clone(), report)))
    }

    /// The databases of held servers.
    pub fn databases(&self) -> BTreeSet<String> {
        let held = decide(&self.servers.borrow(), &self.states.borrow(), &self.objects);
        names(&held, &self.servers.borrow())
    }

    /// Number of held servers.
    pub fn held(&self) -> usize {
        self.held.borrow().len()
    }

    /// The report on held servers, given the databases as pgbouncer shows them.
    pub fn report(&self, databases: &BTreeMap<String, Database>) -> Vec<HeldServer> {
        let servers = self.servers.borrow();
        let held = decide(&servers, &self.states.borrow(), &self.objects);
        // A maintenance waits for the reports of processes without routes to the server, too.
        let unrelated: Vec<(String, Hold)> = (self.objects.all().iter())
            .filter_map(|object| Some((object.metadata.name.clone()?, maintenance(object)?)))
            .filter(|(name, _)| servers.values().all(|server| server.endpoint.server != *name))
            .collect();
        let ours = held.iter().filter_map(|(alias, hold)| {
            let server = servers.get(alias)?;
            Some((server.endpoint.server.as_str(), hold, server.databases.keys().collect()))
        });
        let unrelated = unrelated.iter().map(|(name, hold)| (name.as_str(), hold, Vec::new()));
        report(ours.chain(unrelated), databases)
    }
}

fn maintenance(object: &DatabaseServer) -> Option<Hold> {
    hold(None, object.status.as_ref()?.maintenance.as_ref(), Timestamp::now())
}

fn decide(servers: &ByAlias<Server>, states: &ByAlias<ServerState>, objects: &Cache<DatabaseServer>) -> ByAlias<Hold> {
    let now = Timestamp::now();
    let held = servers.iter().filter_map(|(alias, server)| {
        let object = objects.get(&server.endpoint.server);
        let maintenance = object.as_ref().and_then(|object| object.status.as_ref()?.maintenance.as_ref());
        Some((alias.clone(), hold(states.get(alias), maintenance, now)?))
    });
    held.collect()
}

fn names(held: &ByAlias<Hold>, servers: &ByAlias<Server>) -> BTreeSet<String> {
    let held = held.keys().filter_map(|alias| servers.get(alias));
    held.flat_map(|server| server.databases.keys().cloned()).collect()
}

/// The task that pauses and resumes.
struct Holder {
    directory: PathBuf,
    port: u16,
    objects: Cache<DatabaseServer>,
    routed: watch::Receiver<ByAlias<Server>>,
    probed: watch::Receiver<ByAlias<ServerState>>,
    publish: watch::Sender<ByAlias<Hold>>,
    /// Databases that this task has paused and not resumed.
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
                Ok(()) = self.probed.changed() => {}
                Ok(()) = objects.changed() => {}
                () = over => {}
            }
        }
    }

    async fn act(&mut self) {
        let servers = self.routed.borrow_and_update().clone();
        let held = decide(&servers, &self.probed.borrow_and_update(), &self.objects);
        let wanted = names(&held, &servers);
        let waits_in_any_case =
            |name: &String| servers.values().any(|server| server.databases.get(name) == Some(&true));
        let pause: Vec<String> = wanted.difference(&self.paused).cloned().collect();
        let resume: Vec<String> =
            self.paused.difference(&wanted).filter(|name| !waits_in_any_case(name)).cloned().collect();
        self.paused = wanted;
        let before = self.publish.borrow().clone();
        for (alias, hold) in held.iter().filter(|(alias, hold)| before.get(*alias) != Some(hold)) {
            info!(
                server = servers.get(alias).map(|server| &server.endpoint.server),
                ?hold,
                "pausing the pools of the server"
            );
        }
        for alias in before.keys().filter(|alias| !held.contains_key(*alias)) {
            info!(
                server = servers.get(alias).map(|server| &server.endpoint.server),
                "resuming the pools of the server"
            );
        }
        if let Err(error) = self.apply(&pause, &resume).await {
            // pgbouncer does not run; the agent's loop pauses when it does.
            debug!(%error, "cannot pause or resume");
        }
        if held != before {
            self.publish.send_replace(held);
        }
    }

    async fn apply(&self, pause: &[String], resume: &[String]) -> anyhow::Result<()> {
        if !pause.is_empty() {
            Console::pause_at(&self.directory, self.port, pause).await?;
        }
        if !resume.is_empty() {
            Console::connect(&self.directory, self.port).await?.resume(resume).await?;
        }
        Ok(())
    }

    /// Returns when the time of the first running maintenance is over.
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
