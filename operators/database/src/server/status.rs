//! The status of a DatabaseServer after a sweep, and the metrics and events that go with it.

use std::collections::HashMap;
use std::sync::Arc;

use ahoi_api::{Database, DatabaseServer, DatabaseServerStatus, EventReason};
use ahoi_reconcile::{Error, EventType, Progress, Verdict, conditions};
use kube::ResourceExt;

use super::databases::storage_of;
use super::measure::next_measurement;
use super::sweep::{self, ours};
use super::{disk, kept, other_clusters};
use crate::context::Context;
use crate::memory::Instance;
use crate::postgres::disk::used;
use crate::postgres::model::Observed;
use crate::postgres::prepare::Facts;
use crate::quota::Level;

/// What a sweep has found.
pub struct Swept<'a> {
    /// The DatabaseServer.
    pub server: &'a DatabaseServer,
    /// Its PostgreSQL.
    pub instance: &'a Instance,
    /// State of the server apart from customers' databases.
    pub facts: &'a Facts,
    /// All databases and roles of Ahoi.
    pub observed: &'a Observed,
    /// The Databases on the server.
    pub placed: &'a [Arc<Database>],
}

/// Updates the status from what the sweep has found.
pub async fn status(
    context: &Context,
    swept: &Swept<'_>,
    mut status: DatabaseServerStatus,
) -> Result<Progress<DatabaseServerStatus>, Error> {
    let Swept { server, instance, facts, observed, placed } = *swept;
    let (cluster, generation) = (&context.cluster.id, server.metadata.generation);
    status.version = Some(facts.version_text.clone());
    status.database_count = Some(sweep::databases(observed, cluster));
    status.retained_database_count = i64::try_from(instance.memory.lock().unclaimed.len()).ok();
    let ours = ours(observed);
    report_others(context, server, &ours, &mut status);
    kept::list(instance, &ours, cluster, &server.spec.shared_with_clusters, &mut status).await?;
    status.allocated_bytes = Some(placed.iter().map(|database| storage_of(database)).sum());
    status.max_connections = Some(facts.connections());
    status.passwords = Some(facts.passwords());
    let closed = disk::maintenance_databases_condition(&facts.open_databases());
    let _ = conditions::set(&mut status.conditions, closed.observed_generation(generation));
    let limited = disk::temporary_condition(observed.limits_temporary_files, &facts.temp_file_limit, &facts.admin);
    let _ = conditions::set(&mut status.conditions, limited.observed_generation(generation));
    report_disk(context, swept, &mut status).await?;
    report_quotas(context);
    let message = format!("PostgreSQL {} is reachable and prepared", facts.version_text);
    conditions::set_verdict(&mut status.conditions, generation, Verdict::ready(message));
    Ok(Progress::new(status).requeue_in(next_measurement(instance, 1)))
}

/// Records the databases of other clusters, and an event for the first of each cluster.
fn report_others(context: &Context, server: &DatabaseServer, observed: &Observed, status: &mut DatabaseServerStatus) {
    let cluster = &context.cluster.id;
    let found = sweep::other_clusters(observed, cluster, &server.spec.shared_with_clusters);
    let is_new = found.iter().any(|other| status.other_clusters.iter().all(|known| known.id != other.id));
    status.other_clusters = found;
    other_clusters::set_condition(status, server);
    let condition = conditions::find(&status.conditions, other_clusters::DATA_OF_OTHER_CLUSTERS);
    if let Some(condition) = condition.filter(|_| is_new) {
        let note = condition.message.clone();
        context.platform.event(server, EventType::Warning, EventReason::DataOfOtherClusters, note);
    }
}

/// Records how full the disk is, and an event when it becomes nearly full.
async fn report_disk(context: &Context, swept: &Swept<'_>, status: &mut DatabaseServerStatus) -> Result<(), Error> {
    let Swept { server, instance, placed, .. } = *swept;
    let (known, lists_files, temporary) = {
        let memory = instance.memory.lock();
        let size = |database: &Arc<Database>| {
            let status = database.status.as_ref()?;
            let name = status.database_name.clone()?;
            let size = memory.sizes.get(&name).copied().or(status.size_bytes)?;
            Some((name, size))
        };
        let known: HashMap<_, _> = placed.iter().filter_map(size).collect();
        (known, memory.lists_files, memory.temporary.values().sum::<i64>())
    };
    let used = used(&instance.postgres, &known, lists_files).await? + temporary;
    let is_ok = |status: &DatabaseServerStatus| {
        conditions::find(&status.conditions, disk::DISK).is_none_or(|condition| condition.status == "True")
    };
    let was_ok = is_ok(status);
    let fraction = disk::set_condition(status, server, used);
    context.metrics.disk(&instance.name, fraction);
    if was_ok && !is_ok(status) {
        let message = conditions::find(&status.conditions, disk::DISK).map(|disk| disk.message.clone());
        context.platform.event(server, EventType::Warning, EventReason::DiskNearlyFull, message.unwrap_or_default());
    }
    Ok(())
}

/// Records how full the databases are, as their statuses report.
fn report_quotas(context: &Context) {
    let databases = context.caches.databases.all();
    let over = |database: &&Arc<Database>| {
        database.status.as_ref().is_some_and(|status| Level::read(&status.conditions) >= Level::Exceeded)
    };
    let used = databases.iter().filter_map(|database| {
        let size = database.status.as_ref()?.size_bytes?;
        let storage = storage_of(database);
        // The loss of precision does not matter for a fraction.
        #[allow(clippy::cast_precision_loss)]
        (storage > 0).then(|| (database.namespace().unwrap_or_default(), size as f64 / storage as f64))
    });
    context.metrics.quotas(databases.iter().filter(over).count(), used);
}
