//! Executes plans: adjacent steps in one transaction, a limited number of CREATE and DROP DATABASE at once, and a second look at
//! the result.

use std::collections::BTreeSet;
use std::time::Duration;

use ahoi_api::Reason;
use ahoi_reconcile::Error;

use super::corrections::Corrections;
use super::desired::Desired;
use super::failure::{DEPENDENT_OBJECTS, Failure};
use super::names::Names;
use super::observe;
use super::parameters;
use super::plan::{self, Refusal};
use super::server::Postgres;
use super::step::{Scope, Step, Topic};

/// How long a CREATE or DROP DATABASE waits for others to end: a slow server must not block all reconciles.
const SLOT_TIMEOUT: Duration = Duration::from_secs(30);

/// SQLSTATE of a statement that did not get a lock in time.
const LOCK_NOT_AVAILABLE: &str = "55P03";
/// Number of retries of the step that ends sessions, if it gets no lock: it ends the sessions that hold the lock.
const LOCK_ATTEMPTS: usize = 2;

/// Changes the database to what is desired; returns the steps that this took. Repaired `corrections` are removed.
pub async fn converge(
    postgres: &Postgres,
    desired: &Desired,
    corrections: &mut Corrections,
) -> Result<Vec<Step>, Error> {
    let names = &desired.names;
    let plan = async |corrections: &Corrections| {
        let mut observed = observe::one(postgres, names).await?;
        corrections.apply(&mut observed);
        let steps = plan::open(desired, &observed).map_err(|refusal| refused(postgres, refusal))?;
        Ok::<_, Error>((observed.version, steps))
    };
    let (version, steps) = plan(&*corrections).await?;
    if steps.is_empty() {
        return Ok(steps);
    }
    let outcome = run(postgres, names, version, &steps).await;
    let done = outcome.as_ref().map_or_else(|failed| failed.done, |()| steps.len());
    corrections.settle(&names.database, steps.get(..done).unwrap_or_default());
    outcome.map_err(|failed| failed.explain(postgres, desired))?;
    // PostgreSQL skips with a warning what a role may not revoke: only a second look proves that it is done.
    let (_, rest) = plan(&*corrections).await?;
    match rest.first() {
        None => Ok(steps),
        Some(step) => Err(not_converging(postgres, names, version, step).await),
    }
}

/// The error for a step that PostgreSQL executed without effect.
async fn not_converging(postgres: &Postgres, names: &Names, version: i32, step: &Step) -> Error {
    let (database, topic) = (&names.database, step.topic());
    let mut message = format!(
        "DatabaseServer {} does not change the {} of database {database} as desired",
        postgres.name,
        topic.as_str()
    );
    if matches!(topic, Topic::Privileges | Topic::Membership) {
        let grantors = postgres.pairs(GRANTORS, database).await.unwrap_or_default();
        let grantors: BTreeSet<_> = grantors.into_iter().map(|(grantor, _)| grantor).collect();
        let grantors: Vec<_> = grantors.into_iter().collect();
        message = format!("{message}: `{}` has no effect on what another role granted", step.sql(version));
        if !grantors.is_empty() {
            message = format!("{message}. Run it as {}", grantors.join(" and as "));
        }
    }
    Error::structural(Reason::NotConverging, message)
}

/// Roles other than the owner and the admin role that granted privileges on a database, or memberships of its roles, each with
/// the grantee.
const GRANTORS: &str = "SELECT pg_get_userbyid(grantor)::text, grantee::text FROM ( \
     SELECT a.grantor, a.grantee FROM pg_database, aclexplode(datacl) a WHERE datname = $1 AND a.grantor <> datdba \
     UNION SELECT grantor, member FROM pg_auth_members WHERE starts_with(pg_get_userbyid(member)::text, $1 || '_') \
     ) AS granted WHERE grantor NOT IN (SELECT oid FROM pg_roles WHERE oid = 10 OR rolname = current_user)";

/// Refuses writes again in the whole database, because it grew nevertheless.
pub async fn freeze_again(postgres: &Postgres, names: &Names) -> Result<(), Error> {
    let steps = [Step::Seal { names: names.clone() }, Step::RefuseWrites { names: names.clone() }];
    // None of these depends on the version.
    run(postgres, names, 0, &steps).await.map_err(|failed| failed.into_error(postgres))
}

/// What a database reports about its own size.
#[derive(Clone, Copy, Debug)]
pub struct OwnSize {
    /// Bytes in all.
    pub size: i64,
    /// Bytes of free space maps and visibility maps.
    pub maps: i64,
    /// Whether VACUUM FULL, CLUSTER or CREATE INDEX is running.
    pub is_rewriting: bool,
}

const OWN_SIZE: &str = r"
SELECT pg_database_size(current_database()),
  (SELECT coalesce(sum(pg_relation_size(oid, 'fsm') + pg_relation_size(oid, 'vm')), 0)::bigint FROM pg_class
    WHERE relkind IN ('r', 'm', 't', 'i')),
  EXISTS (SELECT FROM pg_stat_progress_cluster WHERE datname = current_database())
    OR EXISTS (SELECT FROM pg_stat_progress_create_index WHERE datname = current_database())";

/// The size as the database itself reports it; none while its sessions use all of its connections.
pub async fn own_size(postgres: &Postgres, names: &Names) -> Result<Option<OwnSize>, Error> {
    let failed = |failure: Failure| failure.into_error(&postgres.name);
    let mut connection = match postgres.inside(&names.database).await {
        Err(Failure::Busy) => return Ok(None),
        outcome => outcome.map_err(failed)?,
    };
    let size = postgres.fetch_inside(&mut connection, OWN_SIZE).await;
    // Closing may fail; the connection ends anyway.
    let _ = sqlx::Connection::close(connection).await;
    let (size, maps, is_rewriting) = size.map_err(failed)?;
    Ok(Some(OwnSize { size, maps, is_rewriting }))
}

/// The error for a refusal to plan.
pub fn refused(postgres: &Postgres, refusal: Refusal) -> Error {
    match refusal {
        Refusal::NotOurs(message) => {
            Error::structural(Reason::DatabaseNotOwned, format!("DatabaseServer {}: {message}", postgres.name))
        }
        Refusal::Missing(message) => {
            Error::structural(Reason::DatabaseMissing, format!("DatabaseServer {}: {message}", postgres.name))
        }
    }
}

/// The steps that failed together, and why.
pub struct Failed {
    /// Number of steps that were completed before.
    done: usize,
    steps: Vec<Step>,
    failure: Failure,
}

impl Failed {
    /// Whether PostgreSQL refused a DROP because another object depends on what it would drop.
    pub fn is_needed_elsewhere(&self) -> bool {
        matches!(&self.failure, Failure::Refused { code, .. } if code == DEPENDENT_OBJECTS)
    }

    /// Whether PostgreSQL refused the statement.
    pub fn is_refusal(&self) -> bool {
        matches!(&self.failure, Failure::Refused { .. })
    }

    /// The error, if nothing in the spec can be the cause.
    pub fn into_error(self, postgres: &Postgres) -> Error {
        self.failure.into_error(&postgres.name)
    }

    fn explain(self, postgres: &Postgres, desired: &Desired) -> Error {
        let Failure::Refused { code, message } = &self.failure else { return self.into_error(postgres) };
        let sets = self.steps.iter().any(|step| matches!(step, Step::Set { .. }));
        match self.steps.as_slice() {
            [Step::Extension { extension, .. }] if !is_transient(code) => Error::structural(
                Reason::ExtensionRefused,
                format!(
                    "spec.extensions: DatabaseServer {} refuses the extension {extension}: {message}. Remove it, or install it on \
                     the server",
                    postgres.name
                ),
            ),
            // invalid_parameter_value; undefined_object and insufficient_privilege, where they are about a parameter
            _ if sets && (code == "22023" || (code == "42704" || code == "42501") && message.contains("parameter")) => {
                parameters::refused_by_server(&desired.parameters, message)
            }
            _ => self.into_error(postgres),
        }
    }
}

/// Lack of resources, operator intervention and locks are temporary.
fn is_transient(code: &str) -> bool {
    ["40", "53", "55", "57", "58"].iter().any(|class| code.starts_with(class))
}

/// Runs the steps in order.
pub async fn run(postgres: &Postgres, names: &Names, version: i32, steps: &[Step]) -> Result<(), Failed> {
    let mut done = 0;
    for group in steps.chunk_by(|one, other| one.scope() == other.scope() && one.scope() != Scope::Alone) {
        let outcome = match group.first().map(Step::scope) {
            Some(Scope::Alone) => alone(postgres, version, group).await,
            Some(Scope::Server) => together(postgres, version, group).await,
            Some(Scope::Inside) => inside(postgres, names, version, group).await,
            None => Ok(()),
        };
        outcome.map_err(|failed| Failed { done, ..failed })?;
        done += group.len();
    }
    Ok(())
}

async fn alone(postgres: &Postgres, version: i32, group: &[Step]) -> Result<(), Failed> {
    let is_heavy = |step: &Step| matches!(step, Step::CreateDatabase { .. } | Step::DropDatabase { .. });
    if !group.iter().any(is_heavy) {
        return together(postgres, version, group).await;
    }
    let Ok(_slot) = tokio::time::timeout(SLOT_TIMEOUT, postgres.changes.acquire()).await else {
        return Err(Failed { done: 0, steps: group.to_vec(), failure: Failure::Busy });
    };
    together(postgres, version, group).await
}

async fn together(postgres: &Postgres, version: i32, group: &[Step]) -> Result<(), Failed> {
    let sql = group.iter().map(|step| step.sql(version)).collect::<Vec<_>>().join(";\n");
    postgres.run(&sql).await.map_err(|failure| Failed { done: 0, steps: group.to_vec(), failure })
}

/// Runs the steps one by one, so that an error is about one of them.
async fn inside(postgres: &Postgres, names: &Names, version: i32, group: &[Step]) -> Result<(), Failed> {
    let failed = |failure, step: &Step| Failed { done: 0, steps: vec![step.clone()], failure };
    let Some(first) = group.first() else { return Ok(()) };
    let mut connection = postgres.inside(&names.database).await.map_err(|failure| failed(failure, first))?;
    for step in group {
        let sql = step.sql(version);
        let mut done = postgres.run_inside(&mut connection, &sql).await;
        let ends_sessions = matches!(step, Step::RefuseWrites { .. });
        for _ in 0..LOCK_ATTEMPTS {
            if !(ends_sessions && matches!(&done, Err(Failure::Refused { code, .. }) if code == LOCK_NOT_AVAILABLE)) {
                break;
            }
            done = postgres.run_inside(&mut connection, &sql).await;
        }
        done.map_err(|failure| failed(failure, step))?;
    }
    // Closing may fail; the steps are done.
    let _ = sqlx::Connection::close(connection).await;
    Ok(())
}
