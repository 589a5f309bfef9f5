//! The databases on a server that no Database has: those that are retained, archived, or another cluster's. The server's status
//! counts them and lists some; PostgreSQL is asked for their owners only when there are others than before.

use std::collections::{BTreeMap, HashMap, HashSet};

use ahoi_api::{DatabaseServerStatus, KeptDatabase, KeptState};
use ahoi_reconcile::Error;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde::Deserialize;

use crate::postgres::model::Observed;
use crate::postgres::ownership::State;
use crate::postgres::server::ServerPool;

/// The databases of a JSON list with their owners, in the order of their age: the first 10 and the last 10.
const OWNERS: &str = r#"
SELECT database, json_build_object('namespace', namespace, 'name', name,
  'since', to_char(since AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'))::text
FROM (
  SELECT database, namespace, name, since, row_number() OVER (ORDER BY since, database) AS place, count(*) OVER () AS total
  FROM json_array_elements_text($1::json) AS kept(database) LEFT JOIN ahoi.databases USING (database)) AS ordered
WHERE place <= 10 OR place > total - 10
ORDER BY place"#;

/// The sizes of the databases of a JSON list, in bytes. A role that is no superuser may not measure those it cannot connect to, such
/// as another role's.
const SIZES: &str = "
SELECT datname::text, coalesce(pg_database_size(oid)::text, '') FROM pg_database
WHERE datname IN (SELECT json_array_elements_text($1::json)) AND datconnlimit <> -2
  AND (has_database_privilege(oid, 'CONNECT') OR pg_has_role('pg_read_all_stats', 'USAGE'))";

/// What the ownership marker of a database tells about it: its state, and the cluster, if that is another one.
type Marker = (State, Option<String>);

/// The databases that were found last, and the list that was made from them.
#[derive(Debug, Default)]
pub struct Kept {
    found: BTreeMap<String, Marker>,
    list: Vec<KeptDatabase>,
}

/// What the platform team's table tells about a database.
#[derive(Default, Deserialize)]
struct Owner {
    namespace: Option<String>,
    name: Option<String>,
    since: Option<Time>,
}

/// Counts and lists the databases that no Database has.
pub async fn list(
    pool: &ServerPool,
    observed: &Observed,
    cluster: &str,
    shared: &[String],
    status: &mut DatabaseServerStatus,
) -> Result<(), Error> {
    let found = find(observed, cluster, shared, &pool.memory.lock().unclaimed_databases);
    let is_archived = |marker: &&Marker| **marker == (State::Archived, None);
    status.archived = i64::try_from(found.values().filter(is_archived).count()).ok();
    if found.is_empty() || pool.memory.lock().kept.found != found {
        let list = if found.is_empty() { Vec::new() } else { describe(pool, &found, &status.kept).await? };
        pool.memory.lock().kept = Kept { found, list };
    }
    status.kept.clone_from(&pool.memory.lock().kept.list);
    Ok(())
}

/// The databases that are kept. `unclaimed` are those of this cluster that can be adopted and have no object.
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
            // In use, where it has an object.
            (State::Active | State::Retained, None) => unclaimed.contains(name),
        };
        is_kept.then_some((state, other))
    };
    let stamped = observed.databases.iter().filter_map(|(name, database)| Some((name, database.stamp()?)));
    stamped.filter_map(|(name, stamp)| Some((name.clone(), marker(name, stamp.state, stamp.cluster)?))).collect()
}

fn why((state, cluster): &Marker) -> KeptState {
    match state {
        State::Archived => KeptState::Archived,
        State::Active if cluster.is_some() => KeptState::Active,
        // One that has lost its object is closed by the next sweep.
        State::Active | State::Retained | State::Deleting => KeptState::Retained,
    }
}

/// The list: those that are kept longest, and those that are kept last. Sizes that are known are not measured again: no client
/// writes to these databases.
async fn describe(
    pool: &ServerPool,
    found: &BTreeMap<String, Marker>,
    before: &[KeptDatabase],
) -> Result<Vec<KeptDatabase>, Error> {
    let failed = |failure: crate::postgres::server::Failure| failure.into_error(&pool.name);
    let names: Vec<&String> = found.keys().collect();
    let parameter = serde_json::to_string(&names).map_err(anyhow::Error::from)?;
    let owners = pool.pairs(OWNERS, &parameter).await.map_err(failed)?;
    let size_of = |name: &str| before.iter().find(|known| known.database == name).and_then(|known| known.size_bytes);
    let unknown: Vec<&String> =
        owners.iter().filter(|(name, _)| size_of(name).is_none()).map(|(name, _)| name).collect();
    let parameter = serde_json::to_string(&unknown).map_err(anyhow::Error::from)?;
    let measured = pool.pairs(SIZES, &parameter).await.map_err(failed)?;
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
mod tests {
    use super::*;
    use crate::postgres::model::DatabaseState;
    use crate::postgres::ownership::{Cluster, Stamp};

    #[test]
    fn what_no_database_has_is_kept() {
        let here = Cluster::new("here");
        let database = |cluster: &str, name: &str, state: State| {
            let stamp = Stamp {
                cluster: cluster.to_owned(),
                object: here.object("n", name),
                uid: name.to_owned(),
                state,
                extensions: None,
                frozen: false,
                full: false,
            };
            (name.to_owned(), DatabaseState { comment: Some(stamp.comment()), ..DatabaseState::default() })
        };
        let databases = [
            database(&here.id, "in-use", State::Active),
            database(&here.id, "orphan", State::Active),
            database(&here.id, "retained", State::Retained),
            database(&here.id, "archived", State::Archived),
            database(&here.id, "deleting", State::Deleting),
            database("lost", "theirs", State::Active),
            database("lost", "theirs-archived", State::Archived),
            database("living", "shared", State::Active),
        ];
        let observed = Observed { databases: databases.into(), ..Observed::default() };
        let unclaimed = ["orphan".to_owned(), "retained".to_owned()].into();
        let found = find(&observed, &here.id, &["living".to_owned()], &unclaimed);
        let lost = Some("lost".to_owned());
        let expected = [
            ("archived", State::Archived, None, KeptState::Archived),
            ("orphan", State::Active, None, KeptState::Retained),
            ("retained", State::Retained, None, KeptState::Retained),
            ("theirs", State::Active, lost.clone(), KeptState::Active),
            ("theirs-archived", State::Archived, lost, KeptState::Archived),
        ];
        let found: Vec<_> = found.iter().map(|(name, m)| (name.as_str(), m.0, m.1.clone(), why(m))).collect();
        assert_eq!(found, expected);
    }
}
