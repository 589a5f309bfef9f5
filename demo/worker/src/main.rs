//! A customer's worker, for the demo. It takes tasks from a table of the customer's database and finishes them; it knows of
//! Kubernetes only the Secret that is mounted (<https://servicebinding.io/spec/core/1.1.0/>).
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
    /// Take tasks and finish them, until told to stop; the default
    Work,
    /// Create the table of tasks
    Migrate,
    /// Add tasks
    Enqueue {
        /// How many
        count: i64,
    },
    /// Say how many tasks there are in each state
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
    database.context("no database is bound: there is no binding of the type postgresql under SERVICE_BINDING_ROOT")
}
