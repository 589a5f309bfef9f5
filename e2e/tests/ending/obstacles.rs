//! More obstacles to a drop: prepared transactions, a replication slot in use, a stuck checkpoint.

use std::time::Instant;

use ahoi_api::DatabaseServer;
use ahoi_e2e::{Cluster, SYSTEM};
use anyhow::{Context as _, Result, ensure};
use serde_json::json;

use crate::ALONE;
use crate::refused::{RETRIED, pending};
use crate::world::{database_of, is_as_before, kept_by, purge, world};

/// Creates a customer with this deletion policy. Returns the name of its database.
async fn customer(cluster: &Cluster, name: &str, policy: &str) -> Result<String> {
    let spec = json!({"deletionPolicy": policy, "features": {"database": {"enabled": true}}});
    cluster.create_customer_with(name, spec).await?;
    cluster.ready(name).await?;
    database_of(cluster, name).await
}

/// Returns the message of the pending removal.
async fn message_of(cluster: &Cluster, database: &str) -> Result<String> {
    let server = cluster.all::<DatabaseServer>().get("demo").await?;
    let message = pending(Some(&server), database).context("no pending removal")?.message.clone();
    println!("ending: {}", message.as_deref().unwrap_or_default());
    message.context("the pending removal has no message")
}

async fn until_removed(cluster: &Cluster, database: &str) -> Result<()> {
    let done = |object: Option<&DatabaseServer>| object.is_some() && pending(object, database).is_none();
    cluster.until(&cluster.all::<DatabaseServer>(), "demo", "nothing pending", RETRIED, done).await.map(drop)
}

#[tokio::test]
async fn a_prepared_transaction_blocks_no_deletion() -> Result<()> {
    let _alone = ALONE.lock().await;
    let cluster = Cluster::connect().await?;
    let customers = [("end-prepared", "Delete"), ("end-prepared-aside", "Archive")];
    for (name, _) in customers {
        cluster.delete_customer(name).await?;
    }
    let before = world(&cluster).await?;
    let mut databases = Vec::new();
    for (name, policy) in customers {
        databases.push(customer(&cluster, name, policy).await?);
        // Like a transaction manager of the customer that stopped.
        let prepare = format!("BEGIN; CREATE TABLE t (n int); PREPARE TRANSACTION '{name}'");
        cluster.direct(name).await?.connect().await?.batch_execute(&prepare).await?;
    }
    for (name, _) in customers {
        let started = Instant::now();
        cluster.delete_customer(name).await?;
        println!("ending: customer deleted after {:.0?}", started.elapsed());
    }
    for ((name, _), database) in customers.iter().zip(&databases) {
        let message = message_of(&cluster, database).await?;
        ensure!(message.contains("SQLSTATE 55006") && message.contains("prepared transaction"), "{name}: {message}");
        let admin = cluster.admin("postgres").await?;
        let may_log_in = "SELECT rolcanlogin FROM pg_roles WHERE rolname = $1";
        let is_open: bool = admin.query_one(may_log_in, &[&format!("{database}_a")]).await?.get(0);
        ensure!(!is_open, "{name}: the login is open");
    }
    for ((name, _), database) in customers.iter().zip(&databases) {
        // A prepared transaction can be ended only from its own database, which accepts only superusers.
        let admin = cluster.admin("postgres").await?;
        admin.batch_execute(&format!("ALTER DATABASE \"{database}\" ALLOW_CONNECTIONS true")).await?;
        cluster.admin(database).await?.batch_execute(&format!("ROLLBACK PREPARED '{name}'")).await?;
    }
    for database in &databases {
        until_removed(&cluster, database).await?;
    }
    let kept = kept_by(&cluster, "Archive", &databases[1]).await?;
    is_as_before(&cluster, &before, &kept).await?;
    purge(&cluster, &kept).await
}

/// PostgreSQL drops the slots of a database with it, unless a client uses one.
#[tokio::test]
async fn a_replication_slot_in_use_delays_the_drop_and_is_dropped_with_the_database() -> Result<()> {
    let _alone = ALONE.lock().await;
    let cluster = Cluster::connect().await?;
    let name = "end-slot";
    cluster.delete_customer(name).await?;
    let before = world(&cluster).await?;
    let database = customer(&cluster, name, "Delete").await?;
    let admin = cluster.admin("postgres").await?;
    let slot = "SELECT pg_create_logical_replication_slot('end_slot', 'pgoutput')";
    cluster.admin(&database).await?.batch_execute(slot).await?;
    let receive = format!(
        "export PGPASSWORD=$(cat $POSTGRES_PASSWORD_FILE); \
         /usr/lib/postgresql/*/bin/pg_recvlogical -h 127.0.0.1 -U postgres -d {database} -S end_slot --start -f /dev/null \
         -o proto_version=1 -o publication_names=p >/dev/null 2>&1 & echo $!"
    );
    let in_pod = async |command: &str| {
        cluster.kubectl(&["exec", "-n", SYSTEM, "demo-postgres-0", "--", "bash", "-c", command], "").await
    };
    let receiver = in_pod(&receive).await?;
    let is_active = "SELECT coalesce(bool_or(active), false) FROM pg_replication_slots WHERE slot_name = 'end_slot'";
    let started = Instant::now();
    while !admin.query_one(is_active, &[]).await?.get::<_, bool>(0) {
        ensure!(started.elapsed().as_secs() < 20, "the slot is not active");
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    cluster.delete_customer(name).await?;
    let message = message_of(&cluster, &database).await;
    in_pod(&format!("kill {receiver}")).await?;
    let message = message?;
    ensure!(message.contains("SQLSTATE 55006") && message.contains("active logical replication slot"), "{message}");
    until_removed(&cluster, &database).await?;
    let left: i64 = admin.query_one("SELECT count(*) FROM pg_replication_slots", &[]).await?.get(0);
    ensure!(left == 0, "{left} slots are left");
    is_as_before(&cluster, &before, &[]).await
}

/// DROP DATABASE waits for a checkpoint. One that exceeds the statement time-out does not block the deletion of the customer.
#[tokio::test]
async fn a_stuck_checkpoint_blocks_no_deletion() -> Result<()> {
    let _alone = ALONE.lock().await;
    let cluster = Cluster::connect().await?;
    let name = "end-checkpoint";
    cluster.delete_customer(name).await?;
    let before = world(&cluster).await?;
    let database = customer(&cluster, name, "Delete").await?;
    let admin = cluster.admin("postgres").await?;
    let checkpointer: i32 =
        admin.query_one("SELECT pid FROM pg_stat_activity WHERE backend_type = 'checkpointer'", &[]).await?.get(0);
    let signal = async |signal: &str| {
        let kill = format!("kill -{signal} {checkpointer}");
        cluster.kubectl(&["exec", "-n", SYSTEM, "demo-postgres-0", "--", "bash", "-c", &kill], "").await
    };
    signal("STOP").await?;
    let gone = async {
        let started = Instant::now();
        cluster.delete_customer(name).await?;
        println!("ending: customer deleted after {:.0?}", started.elapsed());
        message_of(&cluster, &database).await
    };
    let message = gone.await;
    signal("CONT").await?;
    let message = message?;
    ensure!(message.contains("SQLSTATE 57014"), "{message}");
    until_removed(&cluster, &database).await?;
    is_as_before(&cluster, &before, &[]).await
}
