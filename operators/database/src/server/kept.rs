//! Kept databases: those that belong to no Database, because they are retained, archived, or of another cluster. The status of the
//! DatabaseServer counts them and lists some of them. PostgreSQL is asked for their owners only when the set changes.

use std::collections::{BTreeMap, HashMap, HashSet};

use ahoi_api::{DatabaseServerStatus, KeptDatabase, KeptState};
use ahoi_reconcile::Error;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde::Deserialize;

use crate::memory::{Instance, Kept, Marker};
use crate::postgres::failure::Failure;
use crate::postgres::model::Observed;
use crate::postgres::ownership::State;

/// The oldest 10 and the newest 10 databases of a JSON list, with their owners.
const OWNERS: &str = r#"
SELECT database, json_build_object('namespace', namespace, 'name', name,
  'since', to_char(since AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'))::text
FROM (
  SELECT database, namespace, name, since, row_number() OVER (ORDER BY since, database) AS place, count(*) OVER () AS total
  FROM json_array_elements_text($1::json) AS kept(database) LEFT JOIN ahoi.databases USING (database)) AS ordered
WHERE place <= 10 OR place > total - 10
ORDER BY place"#;

/// Sizes of the databases of a JSON list in bytes. An ordinary role may only measure databases that it may connect to.
const SIZES: &str = "
SELECT datname::text, coalesce(pg_database_size(oid)::text, '') FROM pg_database
WHERE datname IN (SELECT json_array_elements_text($1::json)) AND datconnlimit <> -2
  AND (has_database_privilege(oid, 'CONNECT') OR pg_has_role('pg_read_all_stats', 'USAGE'))";

/// A database in the administrators' table.
#[derive(Default, Deserialize)]
struct Owner {
    namespace: Option<String>,
    name: Option<String>,
    since: Option<Time>,
}

/// Counts and lists the kept databases.
pub async fn list(
    instance: &Instance,
    observed: &Observed,
    cluster: &str,
    shared: &[String],
    status: &mut DatabaseServerStatus,
) -> Result<(), Error> {
    let found = find(observed, cluster, shared, &instance.memory.lock().unclaimed_databases);
    let is_archived = |marker: &&Marker| **marker == (State::Archived, None);
    status.archived_database_count = i64::try_from(found.values().filter(is_archived).count()).ok();
    if found.is_empty() || instance.memory.lock().kept.found != found {
        let list = if found.is_empty() { Vec::new() } else { describe(instance, &found, &status.kept).await? };
        instance.memory.lock().kept = Kept { found, list };
    }
    status.kept.clone_from(&instance.memory.lock().kept.list);
    Ok(())
}

/// The kept databases. `unclaimed` are those of this cluster that can be adopted and have no object.
fn find(
    observed: &Observed,
    cluster: &str,
    shared: &[String],
    unclaimed: &HashSet<String>,
) -> BTreeMap<String, Marker> {
    let marker = |name: &String, state: State, of: String| {
        let other = (of != cluster).then_some(of);
        let is_kept = match (state, &other) {
            (State::Deleting, _) => false,
            (_, Some(other)) => !shared.contains(other),
            (State::Archived, None) => true,
            // If it has an object, it is in use.
            (State::Active | State::Retained, None) => unclaimed.contains(name),
        };
        is_kept.then_some((state, other))
    };
    let marked = observed.databases.iter().filter_map(|(name, database)| Some((name, database.ownership()?)));
    marked
        .filter_map(|(name, ownership)| Some((name.clone(), marker(name, ownership.state, ownership.cluster)?)))
        .collect()
}

fn why((state, cluster): &Marker) -> KeptState {
    match state {
        State::Archived => KeptState::Archived,
        State::Active if cluster.is_some() => KeptState::Active,
        // Without an object, the next sweep closes its logins.
        State::Active | State::Retained | State::Deleting => KeptState::Retained,
    }
}

/// The list for the status. Known sizes are not measured again: no client writes to these databases.
async fn describe(
    instance: &Instance,
    found: &BTreeMap<String, Marker>,
    before: &[KeptDatabase],
) -> Result<Vec<KeptDatabase>, Error> {
    let (postgres, failed) = (&instance.postgres, |failure: Failure| failure.into_error(&instance.name));
    let names: Vec<&String> = found.keys().collect();
    let parameter = serde_json::to_string(&names).map_err(anyhow::Error::from)?;
    let owners = postgres.pairs(OWNERS, &parameter).await.map_err(failed)?;
    let size_of = |name: &str| before.iter().find(|known| known.database == name).and_then(|known| known.size_bytes);
    let unknown: Vec<&String> =
        owners.iter().filter(|(name, _)| size_of(name).is_none()).map(|(name, _)| name).collect();
    let parameter = serde_json::to_string(&unknown).map_err(anyhow::Error::from)?;
    let measured = postgres.pairs(SIZES, &parameter).await.map_err(failed)?;
    let measured: HashMap<String, i64> =
        measured.into_iter().filter_map(|(name, size)| Some((name, size.parse().ok()?))).collect();
    let entry = |(database, owner): (String, String)| {
        let marker = found.get(&database)?;
        let (state, cluster) = (why(marker), marker.1.clone());
        let Owner { namespace, name, since } = serde_json::from_str(&owner).unwrap_or_default();
        let size_bytes = size_of(&database).or_else(|| measured.get(&database).copied());
        Some(KeptDatabase { database, namespace, name, cluster, state, since, size_bytes })
    };
    Ok(owners.into_iter().filter_map(entry).collect())
}

#[cfg(test)]
mod tests;
