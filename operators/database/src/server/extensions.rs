//! Declared extensions that were dropped. They are in no catalog that databases share, so each database is asked.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ahoi_api::Database;
use tracing::warn;

use super::sweep;
use crate::postgres::server::{Failure, ServerPool};

/// How long a sweep asks databases; one takes some 10 ms.
const TIME_FOR_ALL: Duration = Duration::from_secs(10);

/// What there is in a database.
const PRESENT: &str = "SELECT coalesce(array_agg(extname::text), '{}') FROM pg_extension";

/// Asks the databases whose turn it is, of those that declare extensions.
pub async fn find_lost(pool: &ServerPool, placed: &[Arc<Database>]) {
    let round = pool.memory.lock().round;
    let mut declared: Vec<_> = placed.iter().filter_map(|database| declared(database)).collect();
    declared.sort_unstable_by_key(|(name, _)| *name);
    pool.memory.lock().keep_lost(&declared);
    let begun = Instant::now();
    for (name, extensions) in sweep::turn(&declared, round) {
        // The others have their turn again.
        if begun.elapsed() > TIME_FOR_ALL {
            break;
        }
        let lost: BTreeSet<String> = match present(pool, name).await {
            Ok(present) => extensions.iter().filter(|extension| !present.contains(extension)).cloned().collect(),
            // One whose sessions have all of its connections, or that is being dropped, has its turn again as well.
            Err(_) => continue,
        };
        if !lost.is_empty() {
            warn!(server = pool.name, database = name, ?lost, "declared extensions are not there");
        }
        pool.memory.lock().lost_extensions.insert((*name).to_owned(), lost);
    }
}

/// The database and its extensions, once it has been made. One that PostgreSQL refuses to make again stays lost meanwhile.
fn declared(database: &Database) -> Option<(&str, &[String])> {
    let (extensions, status) = (database.spec.extensions.as_slice(), database.status.as_ref()?);
    let name = status.database_name.as_deref().filter(|_| status.binding.is_some())?;
    (!extensions.is_empty()).then_some((name, extensions))
}

async fn present(pool: &ServerPool, database: &str) -> Result<Vec<String>, Failure> {
    let mut connection = pool.inside(database).await?;
    let asked = pool.fetch_inside(&mut connection, PRESENT).await;
    // It is closed either way.
    let _ = sqlx::Connection::close(connection).await;
    asked.map(|(present,): (Vec<String>,)| present)
}

impl sweep::Memory {
    /// Forgets databases and extensions that are not declared any more.
    fn keep_lost(&mut self, declared: &[(&str, &[String])]) {
        let declared: HashMap<_, _> = declared.iter().copied().collect();
        self.lost_extensions.retain(|database, lost| {
            let extensions = declared.get(database.as_str()).copied().unwrap_or_default();
            lost.retain(|extension| extensions.contains(extension));
            !lost.is_empty()
        });
    }
}
