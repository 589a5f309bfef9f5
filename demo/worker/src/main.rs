//! Worker of a customer for the demo. It processes tasks in a table of the customer's database. It uses nothing of Kubernetes but the mounted
//! binding Secret (<https://servicebinding.io/spec/core/1.1.0/>).
#![forbid(unsafe_code)]

mod binding;
mod tasks;
mod work;

use anyhow::Context;
use clap::{Parser, Subcommand};
use sqlx::PgPool;
use tracing::info;
use tracing_subscriber::EnvFilter;

#[derive(Parser)]
#[command(version, about)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Process tasks until SIGTERM; the default
    Work,
    /// Create the table of tasks
    Migrate,
    /// Add tasks
    Enqueue {
        /// Number of tasks
        count: i64,
    },
    /// Print the number of tasks in each state
    Report,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_target(false).init();
    let database = binding::find()?.map(tasks::connect);
    match Cli::parse().command.unwrap_or(Command::Work) {
        Command::Work => work::run(database).await?,
        Command::Migrate => tasks::create_table(&bound(database)?).await?,
        Command::Enqueue { count } => tasks::enqueue(&bound(database)?, count).await?,
        Command::Report => {
            for (state, count) in tasks::report(&bound(database)?).await? {
                info!(state, count, "tasks");
            }
        }
    }
    Ok(())
}

fn bound(database: Option<PgPool>) -> anyhow::Result<PgPool> {
    database.context("no binding of the type postgresql in SERVICE_BINDING_ROOT")
}
