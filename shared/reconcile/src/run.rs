//! From `main` to the end of the process: options, logs, client, Leases, shutdown.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::{ArgAction, Args, CommandFactory, FromArgMatches, Parser};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use kube::Client;
use kube::client::ClientBuilder;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tower::filter::FilterLayer;
use tower::timeout::TimeoutLayer;
use tracing::{error, info, warn};

use crate::controller::Runnable;
use crate::http::{self, Stage, Stages};
use crate::logging::{self, LogFormat};
use crate::metrics::Requests;
use crate::partitions::coordinator::{Coordinator, Eligibility};
use crate::partitions::{self, Fence, Partitions};
use crate::platform::{Platform, Process};

/// How long the first lists may take. Then the process exits, and another replica takes over.
const FIRST_LISTS_TIMEOUT: Duration = Duration::from_secs(120);

/// Timeout of each call to the API server (of a watch: until it starts).
const CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// The options every controller has, each with an environment variable.
#[derive(Args, Debug)]
#[group(skip)] // an operator may call its own options `Options`, too
struct Options {
    /// Address of /livez, /readyz and /metrics
    #[arg(long, env = "METRICS_ADDRESS", default_value = "0.0.0.0:8080")]
    metrics_address: SocketAddr,
    /// Whether to work only while holding a Lease; `false` for a single process on a laptop
    #[arg(long, env = "LEADER_ELECT", default_value_t = true, action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    leader_elect: bool,
    /// Number of partitions that the replicas share, each with a Lease. 1: one replica is the leader, the others are standbys
    #[arg(long, env = "PARTITIONS", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=i64::from(partitions::MAX_PARTITIONS)))]
    partitions: u32,
    /// Namespace of the Leases
    #[arg(long, env = "POD_NAMESPACE", default_value = "ahoi-system")]
    lease_namespace: String,
    /// Name of this replica in Leases and events; unique among the replicas
    #[arg(long, env = "POD_NAME")]
    instance: Option<String>,
    /// Maximum number of objects of a kind that are reconciled at once
    #[arg(long, env = "CONCURRENCY", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..))]
    concurrency: u16,
    /// Log filter, as in RUST_LOG: `info`, `debug`, `ahoi_reconcile=debug,info`. Events of libraries are never logged: they may
    /// contain the bodies of answers, and so passwords
    #[arg(long, env = "RUST_LOG", default_value = "info")]
    log: String,
    /// Log format
    #[arg(long, env = "LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,
}

#[derive(Parser, Debug)]
struct Cli<A: Args> {
    #[command(flatten)]
    options: Options,
    #[command(flatten)]
    extra: A,
}

/// An operator without options of its own.
#[derive(Args, Debug)]
struct NoArgs {}

/// Runs the controllers that `setup` returns while this replica holds the Lease `name`, or Leases of its partitions.
///
/// Returns after SIGTERM or SIGINT, when the running reconciles have ended and the Leases are released. Any other end is an
/// error: a lost Lease, or a task that stopped.
///
/// `setup` is called before a Lease is held. It creates caches, which stay empty until then, and controllers, and must not
/// write; a task that writes in the background is a [`Runnable::task`].
pub async fn run<F, Fut>(name: &'static str, setup: F) -> anyhow::Result<()>
where
    F: FnOnce(Platform) -> Fut,
    Fut: Future<Output = anyhow::Result<Vec<Runnable>>>,
{
    run_with::<NoArgs, _>(name, |platform, _| setup(platform)).await
}

/// [`run`] for an operator with options of its own.
pub async fn run_with<A: Args, Fut>(name: &'static str, setup: impl FnOnce(Platform, A) -> Fut) -> anyhow::Result<()>
where
    Fut: Future<Output = anyhow::Result<Vec<Runnable>>>,
{
    // kube does not choose a TLS provider for the process, and rustls refuses to guess when it finds two.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let matches = Cli::<A>::command().name(name).version(env!("CARGO_PKG_VERSION")).get_matches();
    let Cli { options, extra } = Cli::<A>::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    logging::start(&options.log, options.log_format)?;

    // Without an election this is the only process.
    let partitions = if options.leader_elect { Partitions::elected(options.partitions) } else { Partitions::whole() };
    let requests = Requests::default();
    let instance = options.instance.clone().unwrap_or_else(host_name);
    let client =
        connect(name, &instance, &requests, partitions.fence()).await.context("cannot connect to the API server")?;
    let (failures, failed) = mpsc::unbounded_channel();
    let process = Process {
        name: name.to_owned(),
        instance: instance.clone(),
        namespace: options.lease_namespace.clone(),
        concurrency: options.concurrency,
        partitions,
    };
    let platform = Platform::new(client.clone(), process, requests, failures);
    stop_on_signal(&platform)?;

    let stages = Stages::default();
    http::serve(options.metrics_address, platform.clone(), stages.clone()).await?;
    let controllers = setup(platform.clone(), extra).await.context("cannot set up the controllers")?;
    if platform.partitions().count() > 1
        && let Some(whole) = controllers.iter().find(|controller| !controller.divisible)
    {
        bail!("{name} requires --partitions=1: {} cannot be divided", whole.name);
    }
    let work = work(platform.clone(), stages.clone(), controllers, failed, options.leader_elect);
    if options.leader_elect { elected(&platform, &stages, work).await } else { work.await }
}

/// Works on the partitions that this replica holds, which may change at any time. A single leader begins when it has the one
/// that there is; until then it is a standby, which may leave at once.
async fn elected(
    platform: &Platform,
    stages: &Stages,
    work: impl Future<Output = anyhow::Result<()>>,
) -> anyhow::Result<()> {
    let (client, partitions) = (platform.client.clone(), platform.partitions());
    let is_single = partitions.count() == 1;
    let may_work = CancellationToken::new();
    let gained = may_work.clone();
    partitions.on_gain(move |_| gained.cancel());
    if !is_single {
        may_work.cancel();
    }
    let work = async {
        stages.enter(Stage::Standby);
        tokio::select! {
            () = may_work.cancelled() => work.await,
            () = platform.shutdown().cancelled() => Ok(()),
        }
    };
    let mut coordinator =
        Coordinator::new(client, platform.namespace(), platform.name(), platform.instance(), partitions);
    watch_over(partitions.fence().clone());
    let eligibility = || Eligibility {
        may_take: !platform.shutdown().is_cancelled() && (is_single || platform.unsynced().is_empty()),
    };
    let outcome = tokio::select! {
        outcome = work => outcome,
        () = coordinator.run(eligibility, platform.metrics()) => {
            error!("this replica lost its Leases; exiting");
            // To return would wait for tasks that may still write.
            std::process::exit(1);
        }
    };
    if let Err(error) = coordinator.resign().await {
        warn!(error = format!("{error:#}"), "cannot release the Leases; they expire");
    }
    outcome
}

/// Exits when the fence falls, even if the threads of the runtime are blocked.
fn watch_over(fence: Fence) {
    std::thread::spawn(move || {
        while !fence.has_fallen() {
            std::thread::sleep(Duration::from_millis(100));
        }
        // The exit in `elected`, which logs the reason, usually comes first.
        std::thread::sleep(Duration::from_millis(200));
        std::process::exit(1);
    });
}

/// Runs the controllers until SIGTERM, and then until their reconciles have ended.
async fn work(
    platform: Platform,
    stages: Stages,
    controllers: Vec<Runnable>,
    mut failed: mpsc::UnboundedReceiver<String>,
    elected: bool,
) -> anyhow::Result<()> {
    platform.begin();
    stages.enter(Stage::Leading);
    if !elected {
        platform.metrics().leader.set(1);
        platform.metrics().partitions_held.set(1);
    }
    let shutdown = platform.shutdown().clone();
    let stop_timeout = controllers.iter().map(|controller| controller.stop_timeout).max().unwrap_or_default();
    let mut running: FuturesUnordered<_> = controllers
        .into_iter()
        .map(|controller| {
            // Aborted when one of them fails: nothing may write after the Lease is released.
            let task = AbortOnDropHandle::new(tokio::spawn(controller.future));
            async move { (controller.name, task.await) }
        })
        .collect();
    let stopped = async {
        while let Some((name, end)) = running.next().await {
            if !shutdown.is_cancelled() {
                bail!("{name} stopped{}", if end.is_err() { " by a panic" } else { "" });
            }
        }
        Ok(())
    };
    // Without an election no other replica could take over.
    let lists = async {
        match elected {
            true => first_lists(&platform, FIRST_LISTS_TIMEOUT).await,
            false => std::future::pending().await,
        }
    };
    tokio::select! {
        end = stopped => end?,
        error = lists => return Err(error),
        Some(name) = failed.recv() => bail!("{name} stopped"),
        () = async { shutdown.cancelled().await; tokio::time::sleep(stop_timeout).await } => {
            warn!("reconciles are still running; exiting anyway");
        }
    }
    info!("stopped");
    Ok(())
}

/// Returns an error when the first lists take longer than the timeout, and otherwise never returns.
pub(crate) async fn first_lists(platform: &Platform, timeout: Duration) -> anyhow::Error {
    match tokio::time::timeout(timeout, platform.synced()).await {
        Ok(()) => std::future::pending().await,
        Err(_) => anyhow::anyhow!(
            "no complete list of {} after {} s; another replica may take over",
            platform.missing_lists().join(", "),
            timeout.as_secs()
        ),
    }
}

fn stop_on_signal(platform: &Platform) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let shutdown = platform.shutdown().clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        info!("stopping: waiting for running reconciles");
        shutdown.cancel();
    });
    Ok(())
}

/// A client with timeouts, metrics and the fence.
async fn connect(name: &str, instance: &str, requests: &Requests, fence: &Fence) -> anyhow::Result<Client> {
    let mut config = kube::Config::infer().await?;
    // Reconciles are retried with growing delays; the built-in retry would occupy a slot for minutes.
    config.default_retry = false;
    config.connect_timeout = Some(Duration::from_secs(10));
    // Longer than any watch is silent, to detect broken connections.
    config.read_timeout = Some(Duration::from_secs(295));
    // Names the replica in the audit log of the API server.
    config.headers.push((::http::header::USER_AGENT, format!("{name} ({instance})").parse()?));
    let client = ClientBuilder::try_from(config)?.with_layer(requests).with_layer(&TimeoutLayer::new(CALL_TIMEOUT));
    Ok(client.with_layer(&FilterLayer::new(fence.clone())).build())
}

fn host_name() -> String {
    std::env::var("HOSTNAME").unwrap_or_else(|_| format!("pid-{}", std::process::id()))
}
