//! What becomes of a database whose object is deleted. Read from the status, where the name was written before the
//! database was made; of the spec only the policy counts.

use std::time::Duration;

use ahoi_api::{Database, DatabaseServer, DeletionPolicy};
use ahoi_reconcile::{Error, EventType};
use jiff::Timestamp;
use kube::ResourceExt;
use tracing::{info, warn};

use super::desired::Identity;
use super::execute;
use super::names::Names;
use super::observe;
use super::plan::{self, Refusal};
use super::step::Step;
use crate::context::{Context, is_usable};
use crate::server::ServerPool;
use crate::verifiers;

/// How long a deletion that keeps the data waits for a server that cannot be used: what it would close there, the next sweep
/// that reaches the server closes.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long one waits that is to drop the data or put it aside: nobody else will do that.
const LONG_PATIENCE: Duration = Duration::from_secs(3600);

/// Closes, puts aside or drops the database, as its policy says.
pub async fn cleanup(context: &Context, database: &Database) -> Result<(), Error> {
    let Some((server, names)) = place(database) else { return Ok(()) };
    leave(context, database, server, &names).await?;
    verifiers::forget(context, &names).await
}

async fn leave(context: &Context, database: &Database, server: String, names: &Names) -> Result<(), Error> {
    let Some(server) = context.caches.servers.get(&server) else {
        let note = format!("DatabaseServer {server} is gone; database {} was not looked at", names.database);
        left(context, database, None, "ServerGone", note);
        return Ok(());
    };
    match on_server(context, database, &server, names).await {
        // A connection that broke is tried again: only who has said so itself is away.
        Err(Error::Waiting { .. } | Error::Structural { .. })
            if !is_usable(&server) && age(database) >= patience(database.spec.deletion_policy) =>
        {
            // The next sweep that reaches the server finds a database without an object and closes its login.
            let note = format!(
                "DatabaseServer {} could not be used: database {} and its roles {} and {} are left there as they are",
                server.name_any(),
                names.database,
                names.owner,
                names.login
            );
            left(context, database, Some(&server), "LeftOnServer", note);
            if let Ok(pool) = context.pool(&server) {
                let identity = Identity::of(database, &context.cluster);
                pool.memory.lock().unclaimed.insert(identity.object);
            }
            Ok(())
        }
        Err(Error::Structural { reason, message }) => Err(Error::waiting(reason, message)),
        outcome => outcome,
    }
}

async fn on_server(
    context: &Context,
    database: &Database,
    server: &DatabaseServer,
    names: &Names,
) -> Result<(), Error> {
    let pool = context.pool(server)?;
    let identity = Identity::of(database, &context.cluster);
    let observed = observe::one(&pool, names).await?;
    let policy = database.spec.deletion_policy;
    let plan = match policy {
        DeletionPolicy::Retain => plan::retain(names, &identity, &observed),
        DeletionPolicy::Archive => {
            plan::archive(names, &identity, &observed, names.archived(deleted_at(database).as_second()))
        }
        DeletionPolicy::Delete => plan::delete(names, &identity, &observed),
    };
    match plan {
        Ok(steps) => {
            carry_out(&pool, names, observed.version, &steps).await?;
            info!(server = pool.name, database = names.database, ?policy, "the database is no more in use");
        }
        Err(Refusal::NotOurs(note) | Refusal::Missing(note)) => left(context, database, Some(server), "NotOurs", note),
    }
    let mut memory = pool.memory.lock();
    memory.sizes.remove(&names.database);
    if policy == DeletionPolicy::Retain {
        memory.unclaimed.insert(identity.object);
    }
    Ok(())
}

async fn carry_out(pool: &ServerPool, names: &Names, version: i32, steps: &[Step]) -> Result<(), Error> {
    // Roles one by one: what keeps one of them must not keep the others, nor the deletion for ever.
    let (roles, rest): (Vec<_>, Vec<_>) = steps.iter().cloned().partition(|step| matches!(step, Step::DropRole { .. }));
    execute::run(pool, names, version, &rest).await.map_err(|failed| failed.into_error(pool))?;
    for step in roles {
        let Step::DropRole { role } = &step else { continue };
        match execute::run(pool, names, version, std::slice::from_ref(&step)).await {
            Err(failed) if failed.is_needed_elsewhere() => {
                warn!(
                    server = pool.name,
                    role, "something outside of its database depends on the role; it is kept without login"
                );
                let closed = [Step::NoLogin { role: role.clone() }];
                execute::run(pool, names, version, &closed).await.map_err(|failed| failed.into_error(pool))?;
            }
            outcome => outcome.map_err(|failed| failed.into_error(pool))?,
        }
    }
    Ok(())
}

/// Closes a database that has no object any more, and keeps it.
pub async fn close(pool: &ServerPool, names: &Names, identity: &Identity) -> Result<(), Error> {
    let observed = observe::one(pool, names).await?;
    let steps = plan::retain(names, identity, &observed).map_err(|refusal| execute::refused(pool, refusal))?;
    execute::run(pool, names, observed.version, &steps).await.map_err(|failed| failed.into_error(pool))
}

fn place(database: &Database) -> Option<(String, Names)> {
    let status = database.status.as_ref()?;
    Some((status.server.clone()?, Names::of(status.database_name.as_deref()?)))
}

fn deleted_at(database: &Database) -> Timestamp {
    database.metadata.deletion_timestamp.as_ref().map_or_else(Timestamp::now, |time| time.0)
}

/// None where this machine's clock is behind the API server's.
fn age(database: &Database) -> Duration {
    Timestamp::now().duration_since(deleted_at(database)).try_into().unwrap_or_default()
}

fn patience(policy: DeletionPolicy) -> Duration {
    match policy {
        DeletionPolicy::Retain => PATIENCE,
        DeletionPolicy::Archive | DeletionPolicy::Delete => LONG_PATIENCE,
    }
}

/// Says what was left: at the server, too, since nothing can be said in a namespace that is going.
fn left(context: &Context, database: &Database, server: Option<&DatabaseServer>, reason: &str, note: String) {
    warn!(reason, "{note}");
    context.platform.event(database, EventType::Warning, reason, &note);
    if let Some(server) = server {
        context.platform.event(server, EventType::Warning, reason, note);
    }
}

#[cfg(test)]
mod tests {
    use ahoi_reconcile::testing::{ApiServer, ready};

    use super::*;
    use crate::context::tests::{context, secret, server};

    fn database(status: &str, policy: &str, deleted_ago: Duration) -> Database {
        let deleted = Timestamp::now() - deleted_ago;
        serde_saphyr::from_str(&format!(
            "
            apiVersion: internal.example.com/v1
            kind: Database
            metadata: {{name: acme, namespace: customer-acme, uid: u, deletionTimestamp: \"{deleted}\"}}
            spec: {{storage: 1gb, deletionPolicy: {policy}}}
            status: {status}
            "
        ))
        .unwrap()
    }

    const PLACED: &str = "{server: pg-1, databaseName: c_3f2504e04f89, login: c_3f2504e04f89_a}";

    #[tokio::test]
    async fn what_was_never_made_is_gone_at_once() {
        let context = context(&ApiServer::new(), vec![], vec![], vec![]);
        assert!(cleanup(&context, &database("{}", "Delete", Duration::ZERO)).await.is_ok());
    }

    #[tokio::test]
    async fn a_server_that_is_gone_holds_nobody_back() {
        let context = context(&ApiServer::new(), vec![], vec![], vec![]);
        assert!(cleanup(&context, &database(PLACED, "Delete", Duration::ZERO)).await.is_ok());
    }

    /// Here for want of its admin Secret.
    #[tokio::test]
    async fn a_server_that_cannot_be_used_is_waited_for_and_then_left() {
        let context = context(&ApiServer::new(), vec![server("pg-1")], vec![], vec![]);
        let waits = async |policy: &str, seconds: u64| {
            let outcome = cleanup(&context, &database(PLACED, policy, Duration::from_secs(seconds))).await;
            assert!(matches!(outcome, Ok(()) | Err(Error::Waiting { .. })), "{outcome:?}");
            outcome.is_err()
        };
        assert!(waits("Retain", 0).await && !waits("Retain", 30).await);
        assert!(waits("Delete", 0).await && waits("Delete", 1800).await && !waits("Delete", 4000).await);
        assert!(waits("Archive", 1800).await && !waits("Archive", 4000).await);
    }

    /// Ready by its status, and nobody answers: it may only be starting again.
    #[tokio::test]
    async fn one_connection_that_broke_is_no_reason_to_leave() {
        let admin = secret("admin", &[("username", "postgres"), ("password", "x")]);
        let mut here = ready(server("pg-1"));
        (here.spec.host, here.spec.port) = ("127.0.0.1".to_owned(), 1);
        let context = context(&ApiServer::new(), vec![here], vec![], vec![admin]);
        let outcome = cleanup(&context, &database(PLACED, "Retain", Duration::from_secs(30))).await;
        assert!(matches!(outcome, Err(Error::Waiting { .. })), "{outcome:?}");
    }
}
