//! Finds declared extensions that were dropped. No catalog that databases share lists extensions, so each database is asked.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ahoi_api::Database;
use tracing::warn;

use super::sweep;
use crate::memory::{Instance, Memory};
use crate::postgres::failure::Failure;
use crate::postgres::server::Postgres;

/// Time limit of the search in one sweep; a database takes about 10 ms.
const SEARCH_TIMEOUT: Duration = Duration::from_secs(10);

/// The extensions in a database.
const PRESENT: &str = "SELECT coalesce(array_agg(extname::text), '{}') FROM pg_extension";

/// Asks a share of the databases that declare extensions.
pub async fn find_lost(instance: &Instance, placed: &[Arc<Database>]) {
    let round = instance.memory.lock().round;
    let mut declared: Vec<_> = placed.iter().filter_map(|database| declared(database)).collect();
    declared.sort_unstable_by_key(|(name, _)| *name);
    instance.memory.lock().keep_lost(&declared);
    let begun = Instant::now();
    for (name, extensions) in sweep::share(&declared, round) {
        // The rest is asked in the next round.
        if begun.elapsed() > SEARCH_TIMEOUT {
            break;
        }
        let lost: BTreeSet<String> = match present(&instance.postgres, name).await {
            Ok(present) => extensions.iter().filter(|extension| !present.contains(extension)).cloned().collect(),
            // All of its connections are in use, or it is being dropped.
            Err(_) => continue,
        };
        if !lost.is_empty() {
            warn!(server = instance.name, database = name, ?lost, "declared extensions do not exist");
        }
        instance.memory.lock().corrections.lost_extensions.insert((*name).to_owned(), lost);
    }
}

/// Name and declared extensions of a database that has been created.
fn declared(database: &Database) -> Option<(&str, &[String])> {
    let (extensions, status) = (database.spec.extensions.as_slice(), database.status.as_ref()?);
    let name = status.database_name.as_deref().filter(|_| status.binding.is_some())?;
    (!extensions.is_empty()).then_some((name, extensions))
}

async fn present(postgres: &Postgres, database: &str) -> Result<Vec<String>, Failure> {
    let mut connection = postgres.inside(database).await?;
    let asked = postgres.fetch_inside(&mut connection, PRESENT).await;
    // Closing may fail; the connection ends anyway.
    let _ = sqlx::Connection::close(connection).await;
    asked.map(|(present,): (Vec<String>,)| present)
}

impl Memory {
    /// Forgets databases and extensions that are not declared any more.
    fn keep_lost(&mut self, declared: &[(&str, &[String])]) {
        let declared: HashMap<_, _> = declared.iter().copied().collect();
        self.corrections.lost_extensions.retain(|database, lost| {
            let extensions = declared.get(database.as_str()).copied().unwrap_or_default();
            lost.retain(|extension| extensions.contains(extension));
            !lost.is_empty()
        });
    }
}
