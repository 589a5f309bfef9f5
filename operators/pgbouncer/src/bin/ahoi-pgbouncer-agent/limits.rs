//! The resources of pgbouncer, and the number of clients of each database.

use ahoi_api::PoolState;
use ahoi_pgbouncer::bounds::Bounds;
use ahoi_pgbouncer::config::{Plan, Resources, Settings};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::warn;

/// The resources of pgbouncer: the limit of open files, raised to its maximum, and this memory.
pub fn resources(memory: u64) -> Resources {
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }) {
        warn!(%error, "cannot raise the limit of open files");
    }
    let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    Resources { files, memory }
}

/// Maximum number of clients of each database. Disabled databases have none, as enforcing it would enable them.
pub fn bounds(plan: &Plan, settings: &Settings) -> Bounds {
    let served = plan.routes.values().filter(|route| route.state != PoolState::Disabled);
    served.map(|route| (route.database.clone(), i64::from(settings.clients_of(route)))).collect()
}
