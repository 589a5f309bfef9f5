//! Manual changes are reverted within a sweep, with an event that names what was repaired.

use std::time::{Duration, Instant};

use ahoi_api::{ConnectionPool, Database, PgBouncer};
use ahoi_e2e::ledger::Ledger;
use ahoi_e2e::{Cluster, SYSTEM};
use anyhow::{Context as _, Result, bail};
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::jiff::Timestamp;
use kube::Resource;
use kube::api::{ListParams, Patch, PatchParams};
use serde_json::json;
use tokio::time::sleep;

use crate::{CONNECTIONS, CUSTOMERS, ONE_AT_A_TIME};

/// Longest time until a repair: sweeps are 48 to 72 seconds apart, plus the delay of a busy machine.
const SWEEP: Duration = Duration::from_secs(90);

/// A login with a changed password is refused until the repair, so failures are counted, but allowed.
#[tokio::test]
async fn manual_changes_are_reverted() -> Result<()> {
    let _alone = ONE_AT_A_TIME.lock().await;
    let cluster = Cluster::connect().await?;
    let ledger = Ledger::open(&cluster, &CUSTOMERS, CONNECTIONS).await?;
    let altered = change(&cluster, &ledger).await;
    let report = ledger.close(&cluster).await?;
    println!("manual changes: {report}");
    altered?;
    report.nothing_lost()
}

async fn change(cluster: &Cluster, ledger: &Ledger) -> Result<()> {
    let admin = cluster.admin("postgres").await?;
    let [a, b, c] = CUSTOMERS;
    let (one, two, three) = (names(cluster, a).await?, names(cluster, b).await?, names(cluster, c).await?);

    let since = Since(Instant::now(), Timestamp::now());
    admin.batch_execute(&format!("ALTER ROLE {} PASSWORD 'manual'", one.login)).await?;
    let database = &two.database;
    let grant =
        format!("GRANT CONNECT ON DATABASE {database} TO PUBLIC; ALTER DATABASE {database} CONNECTION LIMIT 77");
    admin.batch_execute(&grant).await?;
    let (login, database) = (&three.login, &three.database);
    let swap = format!("REVOKE {database}_owner FROM {login}; GRANT {}_owner TO {login}", two.database);
    admin.batch_execute(&swap).await?;
    reported::<Database>(cluster, a, "Repaired", "login", since).await?;
    reported::<Database>(cluster, b, "Repaired", "privileges, connection limit", since).await?;
    reported::<Database>(cluster, c, "Repaired", "membership", since).await?;
    ledger.progress(Duration::from_secs(30)).await?;

    let since = Since(Instant::now(), Timestamp::now());
    admin.batch_execute(&format!("DROP OWNED BY {login}; DROP ROLE {login}", login = one.login)).await?;
    edit(cluster, b, "database").await?;
    edit(cluster, c, "pool").await?;
    let line = "echo \"$(grep -v ' host=' /run/pgbouncer/databases.ini)\" > /run/pgbouncer/databases.ini";
    cluster.kubectl(&["exec", "-n", SYSTEM, "global-0", "--", "sh", "-c", line], "").await?;
    reported::<PgBouncer>(cluster, "global", "Repaired", "databases.ini", since).await?;
    reported::<ConnectionPool>(cluster, c, "Repaired", "-pool", since).await?;
    reported::<Database>(cluster, b, "Repaired", "-database", since).await?;
    reported::<Database>(cluster, a, "Repaired", "role", since).await?;
    ledger.progress(Duration::from_secs(60)).await
}

/// Start of the test: events of earlier runs do not count.
#[derive(Clone, Copy)]
struct Since(Instant, Timestamp);

struct Names {
    database: String,
    login: String,
}

async fn names(cluster: &Cluster, customer: &str) -> Result<Names> {
    let databases = cluster.of::<Database>(&ahoi_api::namespace_of(customer));
    let status = databases.get(customer).await?.status.context("the Database has no status")?;
    Ok(Names { database: status.database_name.context("no name")?, login: status.login.context("no login")? })
}

async fn edit(cluster: &Cluster, customer: &str, which: &str) -> Result<()> {
    let secrets = cluster.of::<Secret>(&ahoi_api::namespace_of(customer));
    let patch = Patch::Merge(json!({"stringData": {"password": "manual"}}));
    secrets.patch(&format!("{customer}-{which}"), &PatchParams::default(), &patch).await?;
    Ok(())
}

/// Waits for an event about the object `name` whose note contains `what`.
async fn reported<K: Resource<DynamicType = ()>>(
    cluster: &Cluster,
    name: &str,
    reason: &str,
    what: &str,
    since: Since,
) -> Result<()> {
    let kind = K::kind(&());
    let namespace = if name == "global" { SYSTEM.to_owned() } else { ahoi_api::namespace_of(name) };
    let events = cluster.of::<Event>(&namespace);
    while since.0.elapsed() < SWEEP {
        let found = events.list(&ListParams::default()).await?.into_iter().find(|event| {
            let about = event
                .regarding
                .as_ref()
                .is_some_and(|about| about.kind.as_deref() == Some(&*kind) && about.name.as_deref() == Some(name));
            let names_it = event.note.as_deref().is_some_and(|note| note.contains(what));
            let latest = event.series.as_ref().map(|series| &series.last_observed_time).or(event.event_time.as_ref());
            let new = latest.is_some_and(|time| time.0 >= since.1);
            new && about && event.reason.as_deref() == Some(reason) && names_it
        });
        if let Some(event) = found {
            println!(
                "manual changes: {kind} {name} after {:.0?}: {}",
                since.0.elapsed(),
                event.note.unwrap_or_default()
            );
            return Ok(());
        }
        // SWEEP bounds this loop.
        sleep(Duration::from_millis(500)).await;
    }
    bail!("no event {reason} about {kind} {name} that contains {what:?} within {SWEEP:?}")
}
