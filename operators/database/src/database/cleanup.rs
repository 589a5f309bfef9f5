//! What becomes of a database whose object is deleted. Read from the status, where the name was written before the
//! database was made; of the spec only the policy counts.

use std::time::Duration;

use ahoi_api::{Database, DatabaseServer, DeletionPolicy};
use ahoi_reconcile::{Error, EventType, age};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use postgres_protocol::escape::escape_identifier;
use tracing::{info, warn};

use crate::context::{Context, is_usable};
use crate::pending;
use crate::postgres::desired::Identity;
use crate::postgres::execute;
use crate::postgres::names::Names;
use crate::postgres::observe;
use crate::postgres::plan::{self, Refusal};
use crate::postgres::server::ServerPool;
use crate::postgres::step::Step;
use crate::verifiers;

/// How long a deletion waits for a server that cannot be reached or refuses; less than the pause after the first attempt, so
/// that the second is the last.
const SERVER_TIMEOUT: Duration = Duration::from_secs(20);
/// How long one attempt may take: a statement's own timeout, and less than the time-out of a reconcile.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(75);
/// While PostgreSQL refuses what the deletion of a Database asks of it.
const REFUSED: &str = "RemovalRefused";

/// What is to become of a database.
pub struct Order {
    /// Its names.
    pub names: Names,
    /// Whose it is; another's is left alone.
    pub identity: Identity,
    /// What its owner said.
    pub policy: DeletionPolicy,
    /// When it was deleted.
    pub since: Time,
}

/// Closes, puts aside or drops the database, as its policy says.
pub async fn cleanup(context: &Context, database: &Database) -> Result<(), Error> {
    context.remembered.forget(&database.uid().unwrap_or_default());
    let Some((server, names)) = place(database) else { return Ok(()) };
    let (identity, policy) = (Identity::of(database, &context.cluster), database.spec.deletion_policy);
    let order = Order { names, identity, policy, since: deleted_at(database) };
    leave(context, database, server, &order).await?;
    verifiers::forget(context, &order.names).await
}

async fn leave(context: &Context, database: &Database, server: String, order: &Order) -> Result<(), Error> {
    let names = &order.names;
    // A server that cannot be read is not one that was deleted.
    let found =
        context.caches.servers.find("", &server).map_err(|error| Error::waiting(error.reason(), error.to_string()))?;
    let Some(server) = found else {
        let note = format!("DatabaseServer {server} is gone; database {} was not looked at", names.database);
        left(context, database, None, "DatabaseServerNotFound", note);
        return Ok(());
    };
    let attempt = tokio::time::timeout(ATTEMPT_TIMEOUT, on_server(context, database, &server, order)).await;
    let error = match attempt {
        Ok(Ok(())) => return Ok(()),
        Ok(Err(error)) => error,
        Err(_) => {
            anyhow::anyhow!("DatabaseServer {} has not answered within {ATTEMPT_TIMEOUT:?}", server.name_any()).into()
        }
    };
    let is_overdue = age(&order.since, Timestamp::now()) >= SERVER_TIMEOUT;
    match error {
        // A connection that broke is tried again: a server is unreachable when its own status says so.
        error @ Error::Waiting { .. } if is_usable(&server) => Err(error),
        Error::Waiting { message, .. } | Error::Structural { message, .. } if is_overdue => {
            give_up(context, database, &server, order, message).await
        }
        Error::Other(refusal) if is_overdue => give_up(context, database, &server, order, format!("{refusal:#}")).await,
        Error::Structural { reason, message } => Err(Error::waiting(reason, message)),
        Error::Other(refusal) => Err(Error::waiting(REFUSED, format!("{refusal:#}"))),
        error => Err(error),
    }
}

/// Lets the object go although its server has not done what the policy demands: the server's status remembers it.
async fn give_up(
    context: &Context,
    database: &Database,
    server: &DatabaseServer,
    order: &Order,
    why: String,
) -> Result<(), Error> {
    let (name, removed, policy) = (server.name_any(), &order.names.database, order.policy);
    match pending::postpone(context, &name, order, &why).await {
        // The sweep closes it as a database without an object.
        Err(Error::Waiting { .. }) if policy == DeletionPolicy::Retain => {}
        outcome => outcome?,
    }
    let note = format!(
        "database {removed} could not be removed (policy {policy:?}): {why}. The removal is in status.pendingRemovals of \
         DatabaseServer {name} and is repeated until it succeeds"
    );
    left(context, database, Some(server), "RemovalPostponed", note);
    if policy == DeletionPolicy::Retain
        && let Ok(pool) = context.pool(server)
    {
        pool.memory.lock().unclaimed.insert(order.identity.object.clone());
    }
    Ok(())
}

async fn on_server(
    context: &Context,
    database: &Database,
    server: &DatabaseServer,
    order: &Order,
) -> Result<(), Error> {
    let pool = context.pool(server)?;
    if let Some(note) = obey(&pool, order).await? {
        left(context, database, Some(server), super::NOT_OURS, note);
    }
    Ok(())
}

/// Does what an object has said is to become of its database. The answer is why nothing was done, if it is another's.
pub async fn obey(pool: &ServerPool, order: &Order) -> Result<Option<String>, Error> {
    let Order { names, identity, policy, since } = order;
    let observed = observe::one(pool, names).await?;
    let plan = match policy {
        DeletionPolicy::Retain => plan::retain(names, identity, &observed),
        DeletionPolicy::Archive => plan::archive(names, identity, &observed, names.archived(since.0.as_second())),
        DeletionPolicy::Delete => plan::delete(names, identity, &observed),
    };
    let refusal = match plan {
        Ok(steps) => {
            carry_out(pool, names, observed.version, &steps).await?;
            info!(server = pool.name, database = names.database, ?policy, "the database is no more in use");
            None
        }
        Err(Refusal::NotOurs(note) | Refusal::Missing(note)) => Some(note),
    };
    let mut memory = pool.memory.lock();
    memory.sizes.remove(&names.database);
    if *policy == DeletionPolicy::Retain {
        memory.unclaimed.insert(identity.object.clone());
    }
    Ok(refusal)
}

async fn carry_out(pool: &ServerPool, names: &Names, version: i32, steps: &[Step]) -> Result<(), Error> {
    // Roles one by one: what blocks one of them must not block the others.
    let (roles, rest): (Vec<_>, Vec<_>) = steps.iter().cloned().partition(|step| matches!(step, Step::DropRole { .. }));
    execute::run(pool, names, version, &rest).await.map_err(|failed| failed.into_error(pool))?;
    let mut in_use = Vec::new();
    for step in roles {
        let Step::DropRole { role } = &step else { continue };
        let drop = async || execute::run(pool, names, version, std::slice::from_ref(&step)).await;
        match drop().await {
            Err(failed) if failed.is_needed_elsewhere() => {
                revoke_elsewhere(pool, role).await?;
                match drop().await {
                    Err(failed) if failed.is_needed_elsewhere() => in_use.push(failed.into_error(pool).to_string()),
                    outcome => outcome.map_err(|failed| failed.into_error(pool))?,
                }
            }
            outcome => outcome.map_err(|failed| failed.into_error(pool))?,
        }
    }
    if in_use.is_empty() { Ok(()) } else { Err(Error::structural("RoleInUse", in_use.join("; "))) }
}

/// Takes away what others have granted to a role outside of its own database. Where the role owns something nothing is done:
/// that would be dropped with it.
async fn revoke_elsewhere(pool: &ServerPool, role: &str) -> Result<(), Error> {
    let error = |failure: crate::postgres::server::Failure| failure.into_error(&pool.name);
    for (database, owns) in pool.pairs(DEPENDENCIES, role).await.map_err(error)? {
        if owns == "true" {
            warn!(server = pool.name, role, database, "the role owns objects outside of its own database");
            continue;
        }
        let mut connection = pool.inside(&database).await.map_err(error)?;
        let revoked = pool.run_inside(&mut connection, &format!("DROP OWNED BY {}", escape_identifier(role))).await;
        // It is closed either way.
        let _ = sqlx::Connection::close(connection).await;
        revoked.map_err(error)?;
    }
    Ok(())
}

/// The databases in which something depends on a role, and whether it owns anything there. What is shared among databases
/// counts for the admin database; default privileges are owned, and are nothing that could be lost.
const DEPENDENCIES: &str = "SELECT coalesce(d.datname, current_database())::text, \
     bool_or(s.deptype = 'o' AND s.classid <> 'pg_default_acl'::regclass)::text \
     FROM pg_shdepend s LEFT JOIN pg_database d ON d.oid = s.dbid \
     WHERE s.refclassid = 'pg_authid'::regclass AND s.refobjid = (SELECT oid FROM pg_roles WHERE rolname = $1) GROUP BY 1";

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

fn deleted_at(database: &Database) -> Time {
    database.metadata.deletion_timestamp.clone().unwrap_or_else(|| Time(Timestamp::now()))
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
    use ahoi_reconcile::testing::{ApiServer, ready, unreadable};

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

    #[tokio::test]
    async fn a_server_that_cannot_be_read_is_not_gone() {
        let context = context(&ApiServer::new(), vec![], vec![], vec![]);
        unreadable(&context.caches.servers, &server("pg-1"));
        for policy in ["Retain", "Delete"] {
            let outcome = cleanup(&context, &database(PLACED, policy, Duration::from_secs(30))).await;
            assert!(matches!(&outcome, Err(Error::Waiting { reason, .. }) if reason == "Unreadable"), "{outcome:?}");
        }
    }

    /// Here for want of its admin Secret.
    #[tokio::test]
    async fn a_server_that_cannot_be_used_is_waited_for_and_then_left_with_an_order() {
        let api = ApiServer::new();
        let context = context(&api, vec![api.put(&server("pg-1"))], vec![], vec![]);
        api.take_requests();
        for policy in ["Retain", "Delete", "Archive"] {
            let waiting = cleanup(&context, &database(PLACED, policy, Duration::ZERO)).await;
            assert!(matches!(waiting, Err(Error::Waiting { .. })), "{waiting:?}");
        }
        assert!(cleanup(&context, &database(PLACED, "Retain", Duration::from_secs(30))).await.is_ok());
        let server = context.caches.servers.get("pg-1").unwrap();
        assert_eq!(pending::count(&context, "pg-1"), 1, "its logins are to be closed");
        let heir = database("{}", "Retain", Duration::ZERO);
        assert!(pending::is_kept(&server, &heir) && !pending::is_pending(&server, &heir), "an heir is to have it");
        for _ in 0..2 {
            assert!(cleanup(&context, &database(PLACED, "Delete", Duration::from_secs(30))).await.is_ok());
        }
        let server = context.caches.servers.get("pg-1").unwrap();
        let removals = &server.status.as_ref().unwrap().pending_removals;
        let removal = removals.first().unwrap();
        assert_eq!((removals.len(), removal.database.as_str(), removal.uid.as_str()), (1, "c_3f2504e04f89", "u"));
        assert_eq!(removal.policy, DeletionPolicy::Delete);
        assert_eq!(
            removal.message.as_deref(),
            Some(
                "Secret ahoi-system/admin of DatabaseServer pg-1 does not exist: create it with username and password of the admin role"
            ),
            "what is in the way"
        );
        assert!(pending::is_pending(&server, &database("{}", "Retain", Duration::ZERO)), "an heir is not to have it");
    }

    /// Ready for everybody else, and this it refuses: the order is kept, and nobody waits for it for ever.
    #[tokio::test]
    async fn a_server_that_refuses_holds_nobody_back() {
        let api = ApiServer::new();
        let context = context(&api, vec![api.put(&ready(server("pg-1")))], vec![], vec![]);
        assert!(cleanup(&context, &database(PLACED, "Delete", Duration::ZERO)).await.is_err());
        assert!(cleanup(&context, &database(PLACED, "Delete", Duration::from_secs(30))).await.is_ok());
        assert_eq!(context.caches.servers.get("pg-1").unwrap().status.as_ref().unwrap().pending_removals.len(), 1);
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
