//! The agent's loop: after every event it compares the desired state of pgbouncer with the observed one, and applies the
//! difference.

mod health;
mod logins;
mod lookup;
mod reconnect;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ahoi_api::{
    ClientTlsMode, ConnectionPool, DatabaseServer, EventReason, HoldState, NamespacedRef, POOLER_AUTH_SECRET,
    POOLER_CERTIFICATES_SECRET, PgBouncer, PoolerLogin, ProcessStatus,
};
use ahoi_pgbouncer::bounds::Bounds;
use ahoi_pgbouncer::certificates::{Material, Tls};
use ahoi_pgbouncer::config::{Files, INI, KEPT, Known, Plan, Resources, is_login, plan, render};
use ahoi_pgbouncer::console::{Console, Database, Load};
use ahoi_pgbouncer::fleet;
use ahoi_pgbouncer::hold;
use ahoi_pgbouncer::logins::LoginWatch;
use ahoi_pgbouncer::pool::{Pool, forget_what_is_not_needed};
use ahoi_pgbouncer::report::{refuse, retire};
use ahoi_reconcile::{Cache, EventType, Platform, Runnable, watcher};
use anyhow::{Context, Result, anyhow, bail};
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until};
use tracing::warn;

use crate::budgets::Budgets;
use crate::drain::{Drain, drain};
use crate::files;
use crate::holds::Holds;
use crate::limits;
use crate::metrics::Metrics;
use crate::options::Options;
use crate::pool_states::{self, Draining};
use crate::reload_stagger::ReloadStagger;
use crate::status_reporter::StatusReporter;
use crate::supervise::Process;
use crate::tls;
use crate::top::Top;
use crate::verifiers;

/// Time in which changes are collected for one reload.
const DEBOUNCE: Duration = Duration::from_millis(150);
/// Time between two reconciles without an event.
const REGULARLY: Duration = Duration::from_secs(15);
/// The same while a removed route still has transactions, or a server is being paused.
const SOON: Duration = Duration::from_millis(250);
/// The same while the pools are being listed, which takes long with a busy API server.
const LISTING: Duration = Duration::from_secs(2);
/// Time between two checks of the clients.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// Time between two lookups of the same logins: their passwords may have changed.
const LOOKUP_INTERVAL: Duration = Duration::from_secs(5);
/// The same while a previous login is being retired.
const RETIRING: Duration = Duration::from_secs(3);
/// Time for which lost routes count together.
const LOSS_WINDOW: Duration = Duration::from_secs(600);

impl Agent {
    /// Starts the caches and returns the agent, to be run.
    pub fn start(platform: &Platform, options: Options) -> Result<Runnable> {
        let (client, namespace) = (platform.client.clone(), platform.namespace().to_owned());
        let fleet = NamespacedRef { namespace: namespace.clone(), name: options.fleet.clone() };
        let named = |name: &str| watcher::Config::default().fields(&format!("metadata.name={name}"));
        let fleets: Cache<PgBouncer> = platform.cache(Api::namespaced(client.clone(), &namespace), named(&fleet.name));
        let secrets: Cache<Secret> =
            platform.cache(Api::namespaced(client.clone(), &namespace), named(POOLER_AUTH_SECRET));
        let certificates: Cache<Secret> =
            platform.cache(Api::namespaced(client.clone(), &namespace), named(POOLER_CERTIFICATES_SECRET));
        // The pools of all fleets, so that a pool that moves to another fleet is not taken for lost.
        let pools =
            platform.cache_trimmed(Api::all(client.clone()), watcher::Config::default(), forget_what_is_not_needed);
        let servers: Cache<DatabaseServer> = platform.watch_all();
        let budgets = Budgets::new(servers.clone());
        let serving = Arc::new(AtomicBool::new(false));
        let is_serving = serving.clone();
        platform.ready_if("pgbouncer to serve the routes that existed at its start", move || {
            is_serving.load(Ordering::Relaxed)
        });
        let limit = Duration::from_secs(options.drain_announce + options.drain + 5);
        let process = Process::new(options.pgbouncer.clone());
        let agent = Agent {
            platform: platform.clone(),
            reload_stagger: ReloadStagger::new(&fleet.name, platform.instance()),
            metrics: Metrics::register(platform),
            holds: Holds::start(options.directory.clone(), options.port, servers.clone(), process.refused()),
            process,
            servers,
            top: Top::register(platform, options.top_customers),
            resources: limits::resources(options.memory_limit),
            logins: LoginWatch::default(),
            login_timeout: String::new(),
            log_pooler_errors: String::new(),
            bounds: Bounds::new(),
            full: BTreeSet::new(),
            options,
            fleets,
            secrets,
            verifiers: verifiers::Secrets::watch(platform),
            certificates,
            tls: None,
            pools,
            budgets,
            serving,
            known: Known::default(),
            looked_up: None,
            written: None,
            console: None,
            databases: BTreeMap::new(),
            draining: Draining::new(),
            lost_at: None,
            is_listing: false,
            status: ProcessStatus::default(),
            status_reporter: StatusReporter::new(platform, &fleet),
            fleet,
            failures: 0,
            answered: Instant::now(),
            measured: None,
        };
        Ok(Runnable::task("the agent", agent.run()).stop_within(limit))
    }
}

/// The agent of one pgbouncer process.
pub struct Agent {
    platform: Platform,
    options: Options,
    fleet: NamespacedRef,
    fleets: Cache<PgBouncer>,
    secrets: Cache<Secret>,
    verifiers: verifiers::Secrets,
    certificates: Cache<Secret>,
    /// The loaded TLS settings.
    tls: Option<Tls>,
    pools: Cache<ConnectionPool>,
    servers: Cache<DatabaseServer>,
    holds: Holds,
    budgets: Budgets,
    process: Process,
    reload_stagger: ReloadStagger,
    metrics: Metrics,
    top: Top,
    /// Resources of pgbouncer.
    resources: Resources,
    logins: LoginWatch,
    /// `client_login_timeout` and `log_pooler_errors` according to the fleet's parameters.
    login_timeout: String,
    log_pooler_errors: String,
    /// Maximum number of clients of each database.
    bounds: Bounds,
    /// Databases that have reached it.
    full: BTreeSet<String>,
    serving: Arc<AtomicBool>,
    known: Known,
    /// Time of the last lookup of verifiers that pgbouncer does not look up; none while there are none.
    looked_up: Option<Instant>,
    /// Marker of the last written files.
    written: Option<String>,
    /// Open while pgbouncer answers.
    console: Option<Console>,
    /// The databases that pgbouncer showed last.
    databases: BTreeMap<String, Database>,
    draining: Draining,
    /// Time of the last loss of a route.
    lost_at: Option<Instant>,
    /// Whether the last snapshot of the pools was taken while they were being listed.
    is_listing: bool,
    /// The current report.
    status: ProcessStatus,
    status_reporter: StatusReporter,
    failures: u32,
    answered: Instant,
    measured: Option<Instant>,
}

impl Agent {
    async fn run(mut self) {
        let shutdown = self.platform.shutdown().clone();
        let (mut fleets, mut secrets, mut pools) =
            (self.fleets.changes(), self.secrets.changes(), self.pools.changes());
        let mut certificates = self.certificates.changes();
        let mut held = self.holds.changes();
        let mut servers = self.servers.changes();
        let mut verifiers = self.verifiers.changes();
        let synced = async {
            self.fleets.wait_until_ready().await;
            self.secrets.wait_until_ready().await;
            self.verifiers.wait_until_ready().await;
            self.certificates.wait_until_ready().await;
            self.pools.wait_until_ready().await;
            self.servers.wait_until_ready().await;
        };
        tokio::select! {
            () = synced => {}
            () = shutdown.cancelled() => return,
        }
        let mut next = Instant::now();
        let mut check = interval(CHECK_INTERVAL);
        check.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !shutdown.is_cancelled() {
            tokio::select! {
                () = shutdown.cancelled() => break,
                status = self.process.ended() => self.record_exit(status),
                Ok(()) = held.changed() => {}
                Ok(()) = fleets.changed() => self.debounce().await,
                Ok(()) = secrets.changed() => self.debounce().await,
                Ok(()) = pools.changed() => self.debounce().await,
                Ok(()) = servers.changed() => self.debounce().await,
                () = verifiers.changed() => self.debounce().await,
                Ok(()) = certificates.changed() => self.debounce().await,
                _ = check.tick() => {
                    self.check_clients().await;
                    continue;
                }
                () = sleep_until(next) => {}
            }
            // Later changes trigger the next reconcile.
            fleets.mark_unchanged();
            secrets.mark_unchanged();
            certificates.mark_unchanged();
            pools.mark_unchanged();
            held.mark_unchanged();
            servers.mark_unchanged();
            verifiers.mark_unchanged();
            next = Instant::now() + self.reconcile().await;
        }
        self.serving.store(false, Ordering::Relaxed);
        let seconds = Duration::from_secs;
        let plan = Drain {
            announce: seconds(self.options.drain_announce),
            grace: seconds(5),
            limit: seconds(self.options.drain),
        };
        let console = self.open_console().await;
        drain(&mut self.process, console, plan).await;
    }

    /// Waits for further changes, and for the slot of this process.
    async fn debounce(&mut self) {
        let shutdown = self.platform.shutdown().clone();
        tokio::select! {
            () = shutdown.cancelled() => {}
            status = self.process.ended() => self.record_exit(status),
            () = sleep(DEBOUNCE + self.reload_stagger.wait()) => {}
        }
    }

    /// Reconciles once. Returns the time until the next reconcile without an event.
    async fn reconcile(&mut self) -> Duration {
        let pools = self.snapshot();
        let next = match self.converge(&pools).await {
            Ok(()) => {
                self.failures = 0;
                let retiring = pools.iter().any(|pool| pool.retiring().is_some());
                match self.status.draining.is_empty() && !self.is_pausing() {
                    true if self.is_listing => LISTING,
                    true if retiring => RETIRING,
                    true if self.looked_up.is_some() => LOOKUP_INTERVAL,
                    true => REGULARLY,
                    false => SOON,
                }
            }
            Err(error) => {
                self.metrics.failures.inc();
                let text = error.to_string();
                if self.status.error.as_ref() != Some(&text) {
                    warn!(error = format!("{error:#}"), "cannot load the configuration; retrying");
                }
                self.status.error = Some(text);
                self.failures = (self.failures + 1).min(6);
                Duration::from_millis(100) * (1 << self.failures)
            }
        };
        self.check_health().await;
        self.status.pod = self.platform.instance().to_owned();
        self.status.uid.clone_from(&self.options.pod_uid);
        if let Some(fleet) = self.fleets.get_in(&self.fleet.namespace, &self.fleet.name) {
            self.status_reporter.report(&self.status, &fleet, &pools).await;
        }
        next
    }

    fn snapshot(&mut self) -> Vec<Pool> {
        let loaded = self.known.loaded.as_ref();
        let (pools, listing) = self.pools.all_and_listing();
        self.is_listing = listing;
        let pools = pools.into_iter().map(|pool| Pool::of(&pool, &self.fleet, self.options.shard));
        let pools: Vec<Pool> =
            pools.filter(|pool| pool.here || loaded.is_some_and(|loaded| loaded.contains_key(&pool.key))).collect();
        for pool in &pools {
            if pool.leaving {
                self.known.left.insert(pool.key.clone());
            } else {
                self.known.left.remove(&pool.key);
            }
        }
        // Only loaded routes need evidence of a deletion.
        self.known.left.retain(|key| loaded.is_some_and(|loaded| loaded.contains_key(key)));
        if self.lost_at.is_some_and(|at| at.elapsed() > LOSS_WINDOW) {
            self.known.lost.clear();
        }
        // A login that was removed from the Secret may have been by mistake; the server refuses it if not.
        let secret = self.secrets.get_in(&self.fleet.namespace, POOLER_AUTH_SECRET);
        let entries = secret.as_ref().and_then(|secret| secret.data.as_ref()).into_iter().flatten();
        let logins = entries.filter_map(|(server, entry)| Some((server.clone(), PoolerLogin::parse(&entry.0)?)));
        // An invalid login does not replace a valid one.
        self.known.poolers.extend(logins.filter(|(_, login)| is_login(login)));
        self.known.verifiers.update(self.verifiers.all(), self.known.loaded.iter().flat_map(BTreeMap::values));
        pools
    }

    /// Loads the desired configuration into pgbouncer, and proves it.
    async fn converge(&mut self, pools: &[Pool]) -> Result<()> {
        let fleet = self.fleets.get_in(&self.fleet.namespace, &self.fleet.name);
        let fleet = fleet.with_context(|| format!("the PgBouncer {} does not exist", self.fleet.name))?;
        let mut settings = fleet::settings(&fleet, self.platform.instance(), &self.options.directory);
        settings.port = self.options.port;
        settings.tls = self.secured(&fleet)?;
        self.look_up(pools, &settings.tls).await;
        settings.verifiers = self.known.verifiers.clone();
        settings.verifiers.extend(self.known.file_logins.found());
        let encrypted = settings.tls.client != ClientTlsMode::Disable;
        settings.logins = self.resources.logins(settings.max_client_connections, encrypted);
        self.remember_parameters(&settings.parameters);
        let plan = plan(pools, &self.known).map_err(|implausible| anyhow!("{implausible}"))?;
        self.remember_lost(&plan);
        let shares = self.budgets.share(&fleet, self.options.shard, &plan.routes, &self.pools.all());
        let files = render(shares.routes.values(), &self.known.poolers, &settings);
        self.known.file_logins.record(shares.routes.values(), &settings.verifiers);
        let edited = self.write(&files, &fleet)?;
        self.process.ensure(&self.options.directory.join(INI)).await?;
        self.bounds = limits::bounds(&plan, &settings);

        self.load(&files, edited, &settings.tls).await?;
        self.reconnect(&plan).await?;
        let leaving = pools.iter().filter(|pool| pool.leaving).map(|pool| pool.key.as_str()).collect();
        self.holds.serve(hold::servers(&plan.routes, &leaving, &self.known.poolers, &settings.tls)).await;
        self.tls = Some(settings.tls);
        let busy = self.set_states(&plan, pools).await?;
        self.serving.store(true, Ordering::Relaxed);
        self.metrics.routes.set(count(plan.routes.len()));
        self.metrics.refused.set(count(plan.refused.len()));
        self.metrics.held.set(count(self.holds.held()));
        self.status = ProcessStatus {
            proved_version: self.proved_version(pools),
            routes: count(plan.routes.len()),
            draining: busy,
            held: self.holds.report(&self.databases),
            overcommitted: shares.overcommitted,
            error: (plan.kept > 0).then(|| KEPT.to_owned()),
            ..ProcessStatus::default()
        };
        refuse(&mut self.status, &plan.refused, pools);
        if pools.iter().any(|pool| pool.retiring().is_some()) {
            let console = self.console().await?;
            retire(&mut self.status, &console.users().await?, pools);
            self.console = Some(console);
        }
        self.known.loaded = Some(plan.routes);
        Ok(())
    }

    /// The highest version such that it and all lower versions of pools are loaded. Unchanged while the pools are being listed: the
    /// snapshot may contain old ones.
    fn proved_version(&self, pools: &[Pool]) -> i64 {
        if self.is_listing {
            return self.status.proved_version;
        }
        pools.iter().filter(|pool| pool.here).map(|pool| pool.version).max().unwrap_or(0)
    }

    /// Writes the files that differ. Returns whether another process had changed them: pgbouncer may have read that.
    fn write(&mut self, files: &Files, fleet: &PgBouncer) -> Result<bool> {
        let ours = self.written.as_ref() == Some(&files.marker);
        let replaced = files::write(&self.options.directory, files)?;
        self.written = Some(files.marker.clone());
        if !ours || replaced.is_empty() {
            return Ok(false);
        }
        let note = format!(
            "restored the files {} of pod {}, which had been modified",
            replaced.join(", "),
            self.platform.instance()
        );
        warn!("{note}");
        self.platform.event(fleet, EventType::Warning, EventReason::Repaired, note);
        Ok(true)
    }

    /// The desired TLS settings. While a certificate is missing, a running process keeps its settings, and a new one does not begin
    /// to serve: it would be less secure than the fleet requires.
    fn secured(&self, fleet: &PgBouncer) -> Result<Tls> {
        let secret = self.certificates.get_in(&self.fleet.namespace, POOLER_CERTIFICATES_SECRET);
        let wanted = Tls::of(&fleet.spec.tls, &Material::read(secret.as_deref(), &self.fleet.name));
        wanted.or_else(|problem| self.tls.clone().ok_or_else(|| anyhow!(problem)))
    }

    fn remember_lost(&mut self, plan: &Plan) {
        let new = plan.lost.keys().filter(|key| !self.known.lost.contains_key(*key)).count();
        if new > 0 {
            warn!(routes = new, "removing routes whose ConnectionPools vanished without a deletion");
            self.lost_at = Some(Instant::now());
        }
        if plan.kept > 0 && self.status.error.as_deref() != Some(KEPT) {
            warn!(routes = plan.kept, "keeping routes whose ConnectionPools vanished without a deletion");
        }
        self.known.lost.clone_from(&plan.lost);
    }

    /// Makes pgbouncer read the files, unless it has, and proves that it has read them to the end.
    async fn load(&mut self, files: &Files, edited: bool, tls: &Tls) -> Result<()> {
        let console = self.console().await?;
        let mut marker = console.marker().await?;
        self.answered = Instant::now();
        // The marker does not prove that pgbouncer could use the certificate.
        let unproved = tls.pair.as_ref().filter(|_| self.tls.as_ref() != Some(tls));
        if edited || marker != files.marker || unproved.is_some() {
            self.metrics.reloads.inc();
            let started = Instant::now();
            console.reload().await?;
            // It serves no client while it reads.
            self.reload_stagger.record(started.elapsed());
            self.metrics.record_reload(started.elapsed());
            marker = console.marker().await?;
        }
        if marker != files.marker {
            bail!("pgbouncer has not read its files to the end; see the log of the pod");
        }
        if let Some(pair) = unproved {
            tls::prove(self.options.port, pair).await?;
        }
        let databases = console.databases().await?;
        if !databases.keys().eq(&files.databases) {
            bail!("the databases of pgbouncer differ from its files");
        }
        self.databases = databases;
        self.console = Some(console);
        Ok(())
    }

    async fn set_states(&mut self, plan: &Plan, pools: &[Pool]) -> Result<Vec<String>> {
        let console = self.console().await?;
        let held = self.holds.databases();
        // A database that is missing here has no transactions, and newly held ones are read again below.
        let databases = self.databases.clone();
        let busy =
            pool_states::apply(&console, &plan.routes, pools, &held, &self.full, databases, &mut self.draining).await?;
        if !held.is_empty() {
            // Transactions have ended since.
            self.databases = console.databases().await?;
        }
        if self.measured.is_none_or(|measured| measured.elapsed() >= REGULARLY) {
            let usages = console.usage().await?;
            self.metrics.observe(&Load::of(usages.values()), &console.totals().await?);
            self.top.observe(&plan.routes, &usages, &self.bounds);
            self.measured = Some(Instant::now());
        }
        self.console = Some(console);
        Ok(busy)
    }

    /// Whether a maintenance waits for the transactions of a server to end.
    fn is_pausing(&self) -> bool {
        self.status.held.iter().any(|held| held.state == HoldState::Pausing)
    }
}

fn count(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
