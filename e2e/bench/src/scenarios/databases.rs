//! Databases: the rate of the controller, and of a bare client with the same SQL.

use std::collections::BTreeMap;
use std::time::Instant;

use ahoi_api::{Database, finalizers};
use ahoi_e2e::SYSTEM;
use ahoi_reconcile::is_ready;
use anyhow::{Context as _, Result, ensure};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt as _;
use kube::api::{Api, PostParams};
use serde_json::json;

use super::{is_control_plane, is_of_ahoi, latencies};
use crate::bench::{AT_ONCE, Bench, STEP_TIMEOUT, names};
use crate::cores;
use crate::statements::{self, PREFIX, Statement};
use crate::usage::sum;
use crate::watch::{Change, Seen};

const NAMESPACE: &str = "ahoi-bench-databases";
/// Row of the report.
pub const SHARE: &str = "rate of Ahoi as a share of the best bare client";
/// Name that is unique in all texts.
const RECORDED: &str = "bench-recorded-database";
/// Numbers of databases that the bare client creates concurrently. The best result counts.
const SIDE_BY_SIDE: [usize; 4] = [2, 3, 4, 8];

/// SQL of one database, and the names in it.
struct Recorded {
    statements: Vec<Statement>,
    database: String,
    uid: String,
}

/// Creates the databases of the profile both ways: with all cores shared, and with one core only for PostgreSQL, which has its own
/// machine in large installations.
pub async fn run(bench: &mut Bench) -> Result<()> {
    bench.start_controllers().await?;
    let scenario = format!("{} databases at once", bench.profile.databases);
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}});
    bench.cluster.apply(&namespace.to_string()).await?;
    log_statements(bench, "LOG_STATEMENTS=true").await?;
    let recorded = record(bench).await?;
    log_statements(bench, "LOG_STATEMENTS-").await?;
    either_way(bench, &scenario, &recorded).await?;

    bench.start_controllers().await?;
    if cores::postgres_apart(&bench.usage()?)? {
        either_way(bench, &format!("{scenario}, PostgreSQL on its own core"), &recorded).await?;
        cores::together(&bench.usage()?)?;
    }
    let namespaces: Api<Namespace> = bench.cluster.all();
    bench.cluster.delete(&namespaces, NAMESPACE, STEP_TIMEOUT).await
}

async fn either_way(bench: &mut Bench, scenario: &str, recorded: &Recorded) -> Result<()> {
    println!("{scenario}");
    let n = bench.profile.databases;
    let names = names("database", n);
    let mut seen = watch(bench).await?;
    let start = bench.start()?;
    let sent = make(bench, &names).await?;
    let ready = seen.all(n, "databases Ready", STEP_TIMEOUT).await?;
    let ours = n as f64 / last(start.at, &ready)?;
    bench.run.value(scenario, "rate", "databases/s", ours);
    bench.latency(scenario, "created → Ready", latencies(&sent, &ready));
    let writes = start.requests()?.iter().filter(|request| request.is_write()).count();
    bench.run.value(scenario, "writes per database", "requests", writes as f64 / n as f64);
    let cpu = start.cpu(&bench.usage()?);
    let each = |counts: fn(&str) -> bool| sum(&cpu, counts) * 1000.0 / n as f64;
    bench.run.value(scenario, "CPU of Ahoi per database", "ms", each(is_of_ahoi));
    bench.run.value(scenario, "CPU of API server and etcd per database", "ms", each(is_control_plane));
    bench.remove(bench.cluster.of::<Database>(NAMESPACE), &names).await?;

    // The controller would treat the databases of the bare client as orphans.
    bench.stop_controllers().await?;
    bench.run.value(scenario, "statements per database", "", recorded.statements.len() as f64);
    let mut best: f64 = 0.0;
    for side_by_side in SIDE_BY_SIDE {
        let begun = Instant::now();
        let made = replay(bench, recorded, n, side_by_side).await?;
        let rate = n as f64 / begun.elapsed().as_secs_f64();
        best = best.max(rate);
        drop_all(bench, &made).await?;
        bench.run.value(scenario, &format!("rate of a bare client, {side_by_side} at once"), "databases/s", rate);
    }
    bench.run.value(scenario, SHARE, "", ours / best);
    Ok(())
}

fn last(start: Instant, ended: &BTreeMap<String, Instant>) -> Result<f64> {
    Ok(ended.values().max().context("none")?.saturating_duration_since(start).as_secs_f64())
}

async fn watch(bench: &Bench) -> Result<Seen> {
    let ready = |change: Change<'_, Database>| match change {
        Change::Is(database) if is_ready(database) => Some(database.name_any()),
        _ => None,
    };
    Seen::by(bench.cluster.of::<Database>(NAMESPACE), ready).await
}

async fn make(bench: &Bench, names: &[String]) -> Result<BTreeMap<String, Instant>> {
    let api = bench.cluster.of::<Database>(NAMESPACE);
    let sent = names.iter().map(|name| {
        let (api, name) = (api.clone(), name.clone());
        async move {
            let spec = serde_json::from_value(json!({"storage": "1gb", "deletionPolicy": "Delete"}))?;
            let mut database = Database::new(&name, spec);
            // Like those of the customer controller.
            database.finalizers_mut().push(finalizers::DATABASE.into());
            let sent = Instant::now();
            api.create(&PostParams::default(), &database).await?;
            anyhow::Ok((name, sent))
        }
    });
    stream::iter(sent).buffer_unordered(AT_ONCE).try_collect().await
}

/// Restarts the database controller with or without this variable. By default its statements are not logged.
async fn log_statements(bench: &mut Bench, variable: &str) -> Result<()> {
    bench.stop_controllers().await?;
    bench.cluster.kubectl(&["-n", SYSTEM, "set", "env", "deployment/ahoi-database", variable], "").await?;
    bench.start_controllers().await
}

/// Creates a database while PostgreSQL logs all statements.
async fn record(bench: &Bench) -> Result<Recorded> {
    let admin = bench.cluster.admin("postgres").await?;
    admin.batch_execute(&format!("ALTER SYSTEM SET log_line_prefix = '{PREFIX}'")).await?;
    admin.batch_execute("ALTER SYSTEM SET log_statement = 'all'").await?;
    admin.batch_execute("SELECT pg_reload_conf()").await?;
    let since = Timestamp::now();
    let mut seen = watch(bench).await?;
    make(bench, &[RECORDED.to_owned()]).await?;
    seen.all(1, "the recorded database Ready", 120).await?;
    let object = bench.cluster.of::<Database>(NAMESPACE).get(RECORDED).await?;
    admin.batch_execute("ALTER SYSTEM RESET log_statement").await?;
    admin.batch_execute("ALTER SYSTEM RESET log_line_prefix").await?;
    admin.batch_execute("SELECT pg_reload_conf()").await?;
    let since = format!("--since-time={since}");
    let logs = ["logs", "--namespace", SYSTEM, "statefulset/demo-postgres", &since];
    let log = bench.cluster.kubectl(&logs, "").await?;
    let database = object.status.as_ref().and_then(|status| status.database_name.clone()).context("no name")?;
    let statements = statements::read(&log, "ahoi-database");
    let creates = |statement: &Statement| statement.sql.starts_with("CREATE DATABASE");
    ensure!(
        statements.iter().filter(|statement| creates(statement)).count() == 1,
        "the log does not contain exactly one CREATE DATABASE"
    );
    bench.remove(bench.cluster.of::<Database>(NAMESPACE), &[RECORDED.to_owned()]).await?;
    Ok(Recorded { statements, database, uid: object.uid().unwrap_or_default() })
}

/// Sends the SQL of `n` databases. Returns their names.
async fn replay(bench: &Bench, recorded: &Recorded, n: usize, side_by_side: usize) -> Result<Vec<String>> {
    let login = &bench.cluster.administrator().await?;
    let workers = (0..side_by_side).map(|worker| async move {
        let admin = login.connect().await?;
        let mut made = Vec::new();
        for number in (worker..n).step_by(side_by_side) {
            let database = format!("c_{:012x}", 0xbe9c_0000_0000_u64 + number as u64);
            let fill = |text: &str| {
                let text = text.replace(&recorded.database, &database).replace(RECORDED, &database);
                text.replace(&recorded.uid, &format!("bench-{number}"))
            };
            let mut inside = None;
            for statement in &recorded.statements {
                let sql = fill(&statement.sql);
                let client = if statement.database == recorded.database {
                    if inside.is_none() {
                        inside = Some(login.clone().to_database(&database).connect().await?);
                    }
                    inside.as_ref().unwrap_or(&admin)
                } else {
                    &admin
                };
                client.simple_query(&sql).await.with_context(|| format!("the recorded {sql}"))?;
            }
            made.push(database);
        }
        anyhow::Ok(made)
    });
    Ok(futures::future::try_join_all(workers).await?.concat())
}

async fn drop_all(bench: &Bench, databases: &[String]) -> Result<()> {
    let admin = bench.cluster.admin("postgres").await?;
    for database in databases {
        admin.batch_execute(&format!("DROP DATABASE {database} WITH (FORCE)")).await?;
        admin.execute("DELETE FROM ahoi.databases WHERE database = $1", &[database]).await?;
        let roles = admin
            .query("SELECT rolname::text FROM pg_roles WHERE starts_with(rolname, $1)", &[&format!("{database}_")])
            .await?;
        for role in roles {
            admin.batch_execute(&format!("DROP ROLE {}", role.get::<_, String>(0))).await?;
        }
    }
    Ok(())
}
