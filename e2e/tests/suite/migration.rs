//! Migrations: they connect to PostgreSQL directly, new clients get new server connections afterwards, and failed ones can be retried.

use ahoi_api::{Scheduler, namespace_of};
use ahoi_e2e::{Cluster, SYSTEM};
use ahoi_reconcile::conditions;
use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::batch::v1::Job;
use kube::api::ListParams;
use serde_json::{Value, json};

const NAME: &str = "migration";
const SELECT: &str = "SELECT * FROM changing";

/// The migration takes a session lock and ends without releasing it, while clients have prepared a statement for the table.
#[tokio::test]
async fn a_migration_connects_directly_and_new_clients_get_new_server_connections() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let image = image(&cluster).await?;
    let scheduler = scheduler(&image, "CREATE TABLE changing (a int)");
    let features = json!({"database": {"enabled": true}, "connectionPool": {"poolSize": 1}, "scheduler": scheduler});
    cluster.create_customer_with(NAME, json!({"deletionPolicy": "Delete", "features": features})).await?;
    cluster.ready(NAME).await?;
    ensure!(secrets(&cluster).await? == ["migration-database"], "{:?}", secrets(&cluster).await?);
    lock_is_free(&cluster).await?;

    // Enough sessions for each process.
    let pooled = cluster.pooled(NAME).await?;
    let processes = cluster.of_agents("ahoi_pooler_routes").await?.len() * 8;
    let mut sessions = Vec::new();
    for _ in 0..processes {
        sessions.push(pooled.connect().await?);
    }
    for session in &sessions {
        session.query(SELECT, &[]).await?;
    }
    let before = workers(&cluster).await?;
    let schedulers = cluster.of::<Scheduler>(&namespace_of(NAME));
    let migration = |scheduler: &Scheduler| scheduler.status.as_ref().and_then(|status| status.migration.clone());
    let first = migration(&schedulers.get(NAME).await?);
    let features = json!({"scheduler": scheduler_command("ALTER TABLE changing ADD b int")});
    cluster.patch_spec(&cluster.customers(), NAME, json!({"features": features})).await?;
    let migrated = |scheduler: Option<&Scheduler>| {
        let conditions = scheduler.and_then(|scheduler| scheduler.status.as_ref()).map(|status| &status.conditions);
        let is_over = conditions.into_iter().flatten().any(|c| c.type_ == "Migrated" && c.status == "True");
        is_over && scheduler.and_then(migration) != first
    };
    cluster.until(&schedulers, NAME, "Migrated", 60, migrated).await?;
    for _ in 0..processes {
        let rows = pooled.connect().await?.prepare(SELECT).await;
        let columns = rows.context("a client that starts after the migration")?.columns().len();
        ensure!(columns == 2, "{columns} columns");
        pooled.connect().await?.query(SELECT, &[]).await.context("a client that starts after the migration")?;
    }
    // Existing sessions fail at most once.
    for session in &sessions {
        if session.query(SELECT, &[]).await.is_err() {
            session.query(SELECT, &[]).await.context("a second failure")?;
        }
    }
    cluster.ready(NAME).await?;
    let after = workers(&cluster).await?;
    ensure!(before != after, "the workers were not updated: {before:?}");
    lock_is_free(&cluster).await?;
    // The next migration takes the same lock.
    cluster
        .change(NAME, json!({"features": {"scheduler": scheduler_command("ALTER TABLE changing ADD c int")}}))
        .await?;
    let rows = pooled.connect().await?.prepare(SELECT).await?;
    ensure!(rows.columns().len() == 3, "{} columns", rows.columns().len());
    cluster.delete_customer(NAME).await
}

/// Follows both remedies of the message: the command that prints the log, and deleting the Job.
#[tokio::test]
async fn a_failed_migration_runs_again_when_its_job_is_deleted() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let (name, namespace) = ("migration-failed", namespace_of("migration-failed"));
    let psql = "psql -X -v ON_ERROR_STOP=1 \"$(cat /bindings/database/uri)\" -c 'TABLE required'";
    let scheduler = json!({"enabled": true, "image": image(&cluster).await?, "workers": 0,
        "migration": {"command": ["sh", "-c", psql], "retries": 0}});
    let features = json!({"database": {"enabled": true}, "connectionPool": {"enabled": false}, "scheduler": scheduler});
    cluster.create_customer_with(name, json!({"deletionPolicy": "Delete", "features": features})).await?;
    let failed = cluster.condition(name, "SchedulerReady", "False", "MigrationFailed").await?;
    let conditions = failed.status.map(|status| status.conditions).unwrap_or_default();
    let message = &conditions::find(&conditions, "SchedulerReady").context("SchedulerReady")?.message;
    println!("migration: {message}");
    let command = message.split('`').find(|part| part.starts_with("kubectl")).context("no command in the message")?;
    let logs: Vec<&str> = command.split_whitespace().skip(1).collect();
    let log = cluster.kubectl(&logs, "").await.context("the command of the message")?;
    ensure!(log.contains("relation \"required\" does not exist"), "{log:?}");
    ensure!(message.contains("delete the Job"), "{message:?}");

    cluster.direct(name).await?.connect().await?.batch_execute("CREATE TABLE required (n int)").await?;
    let job = logs.iter().find_map(|word| word.strip_prefix("job/")).context("no Job in the command")?;
    cluster.kubectl(&["delete", "job", "-n", &namespace, job], "").await?;
    cluster.ready(name).await.context("after the Job was deleted")?;
    cluster.delete_customer(name).await
}

/// Returns the image of PostgreSQL, which contains psql.
async fn image(cluster: &Cluster) -> Result<String> {
    let postgres = cluster.of::<StatefulSet>(SYSTEM).get("demo-postgres").await?;
    let pods = postgres.spec.and_then(|spec| spec.template.spec).context("demo-postgres has no pods")?;
    pods.containers[0].image.clone().context("demo-postgres has no image")
}

fn scheduler(image: &str, change: &str) -> Value {
    let mut scheduler = scheduler_command(change);
    scheduler["enabled"] = json!(true);
    scheduler["image"] = json!(image);
    // Only the version of the workers matters.
    scheduler["workers"] = json!(0);
    scheduler
}

/// The command of the workers differs by version, like the migration.
fn scheduler_command(change: &str) -> Value {
    let migration = format!(
        "psql -X -v ON_ERROR_STOP=1 \"$(cat /bindings/database/uri)\" -c 'SELECT pg_advisory_lock(72)' -c '{change}'"
    );
    json!({
        "command": ["sleep", "86400", change],
        "migration": {"command": ["sh", "-c", migration]},
    })
}

async fn workers(cluster: &Cluster) -> Result<Option<Vec<String>>> {
    let workers = cluster.of::<Deployment>(&namespace_of(NAME)).get("migration-worker").await?;
    let pods = workers.spec.and_then(|spec| spec.template.spec).context("the workers have no pods")?;
    Ok(pods.containers[0].command.clone())
}

/// Returns the Secrets that migrations mount.
async fn secrets(cluster: &Cluster) -> Result<Vec<String>> {
    let labelled = ListParams::default().labels("app.kubernetes.io/name=migration");
    let jobs = cluster.of::<Job>(&namespace_of(NAME)).list(&labelled).await?;
    let volumes = jobs.into_iter().filter_map(|job| job.spec?.template.spec?.volumes).flatten();
    Ok(volumes.filter_map(|volume| volume.secret?.secret_name).collect())
}

async fn lock_is_free(cluster: &Cluster) -> Result<()> {
    let direct = cluster.direct(NAME).await?.connect().await?;
    let row = direct.query_one("SELECT pg_try_advisory_lock(72)", &[]).await?;
    ensure!(row.get::<_, bool>(0), "the lock of a finished migration is still held");
    Ok(())
}
