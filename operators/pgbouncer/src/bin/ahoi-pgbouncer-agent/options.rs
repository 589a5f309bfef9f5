//! The options of the agent.

use std::path::PathBuf;

use ahoi_pgbouncer::PORT;
use clap::Args;

/// Command line and environment of the agent.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Name of the PgBouncer of this process, in the namespace of the pod
    #[arg(long, env = "FLEET")]
    pub fleet: String,
    /// Shard of the PgBouncer, counted from 0
    #[arg(long, env = "SHARD", default_value_t = 0)]
    pub shard: i32,
    /// uid of the pod
    #[arg(long, env = "POD_UID")]
    pub pod_uid: String,
    /// Directory of pgbouncer's files and of the socket of its console
    #[arg(long, env = "CONFIG_DIRECTORY", default_value = "/run/pgbouncer")]
    pub directory: PathBuf,
    /// Path of the pgbouncer program
    #[arg(long, env = "PGBOUNCER", default_value = "/usr/sbin/pgbouncer")]
    pub pgbouncer: PathBuf,
    /// Number of customers with metrics of their own: those whose clients wait longest, and then the busiest
    #[arg(long, env = "TOP_CUSTOMERS", default_value_t = 20)]
    pub top_customers: usize,
    /// Memory limit of the pod in bytes
    #[arg(long, env = "MEMORY_LIMIT", default_value_t = 512 << 20)]
    pub memory_limit: u64,
    /// Port for clients
    #[arg(long, env = "PORT", default_value_t = PORT)]
    pub port: u16,
    /// Seconds from the deletion of the pod until no node sends new clients to it
    #[arg(long, env = "DRAIN_ANNOUNCE_SECONDS", default_value_t = 5)]
    pub drain_announce: u64,
    /// Seconds after that for clients to finish
    #[arg(long, env = "DRAIN_SECONDS", default_value_t = 60)]
    pub drain: u64,
}
