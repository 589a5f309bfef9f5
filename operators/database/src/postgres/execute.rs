//! Carries plans out: neighbours in one transaction, databases made and dropped a few at a time, and what is left
//! afterwards looked at once more.

use std::time::{Duration, Instant};

use ahoi_reconcile::Error;

use super::desired::Desired;
use super::names::Names;
use super::observe;
use super::parameters;
use super::plan::{self, Refusal};
use super::server::{DEPENDENT_OBJECTS, Failure, ServerPool};
use super::step::{Place, Step};

/// How long a CREATE or DROP DATABASE waits for its turn: a server that is slow with a few must not hold all others.
const SLOT_TIMEOUT: Duration = Duration::from_secs(30);

/// SQLSTATE of a lock that was waited for in vain.
const LOCK_NOT_AVAILABLE: &str = "55P03";
/// How often the step that ends sessions is tried again when it did not get a lock: it ends those that held it.
const LOCK_ATTEMPTS: usize = 2;

/// Makes the database what is desired; the answer is what that took.
pub async fn converge(server: &ServerPool, desired: &Desired) -> Result<Vec<Step>, Error> {
    let names = &desired.names;
    let observed = observe::one(server, names).await?;
    let steps = plan::open(desired, &observed).map_err(|refusal| refused(server, refusal))?;
    if steps.is_empty() {
        return Ok(steps);
    }
    run(server, names, observed.version, &steps).await.map_err(|failed| failed.explain(server, desired))?;
    // What a role may not revoke, PostgreSQL skips with a warning: only another look proves that it is done.
    let rest = plan::open(desired, &observe::one(server, names).await?).map_err(|refusal| refused(server, refusal))?;
    match rest.first() {
        None => Ok(steps),
        Some(step) => Err(Error::structural(
            "NotConverging",
            format!(
                "on DatabaseServer {} the {} of {} cannot be made as desired",
                server.name,
                step.topic().as_str(),
                names.database
            ),
        )),
    }
}

/// Has all that is in the database refuse writes once more: something got past it.
pub async fn freeze_again(server: &ServerPool, names: &Names) -> Result<(), Error> {
    let steps = [Step::Seal { names: names.clone() }, Step::RefuseWrites { names: names.clone() }];
    // None of these depends on the version.
    run(server, names, 0, &steps).await.map_err(|failed| failed.into_error(server))
}

/// What a database says of its own size.
const SIZE: &str = r"
SELECT pg_database_size(current_database()),
  (SELECT coalesce(sum(pg_relation_size(oid, 'fsm') + pg_relation_size(oid, 'vm')), 0)::bigint FROM pg_class
    WHERE relkind IN ('r', 'm', 't', 'i')),
  EXISTS (SELECT FROM pg_stat_progress_cluster WHERE datname = current_database())
    OR EXISTS (SELECT FROM pg_stat_progress_create_index WHERE datname = current_database())";

/// Whether a database that seemed to grow although its storage is used up does so.
pub async fn grows_too_much(server: &ServerPool, names: &Names) -> Result<bool, Error> {
    let failed = |failure: Failure| failure.into_error(&server.name);
    let mut connection = match server.inside(&names.database).await {
        // Its own sessions have all of its connections, so that nobody can ask it.
        Err(Failure::Busy) => return Ok(true),
        outcome => outcome.map_err(failed)?,
    };
    let asked = server.fetch_inside(&mut connection, SIZE).await;
    // It is closed either way.
    let _ = sqlx::Connection::close(connection).await;
    let (size, maps, is_rewriting): (i64, i64, bool) = asked.map_err(failed)?;
    let mut memory = server.memory.lock();
    let growth = memory.growth.get_mut(&names.database);
    Ok(growth.is_some_and(|growth| growth.is_still_too_much(size, maps, is_rewriting, Instant::now())))
}

/// The error for a refusal to plan.
pub fn refused(server: &ServerPool, refusal: Refusal) -> Error {
    match refusal {
        Refusal::NotOurs(message) => {
            Error::structural(crate::database::NOT_OURS, format!("DatabaseServer {}: {message}", server.name))
        }
        Refusal::Missing(message) => {
            Error::structural("DatabaseMissing", format!("DatabaseServer {}: {message}", server.name))
        }
    }
}

/// The steps that failed together, and why.
pub struct Failed {
    steps: Vec<Step>,
    failure: Failure,
}

impl Failed {
    /// Whether PostgreSQL refused because something else depends on what was to be dropped.
    pub fn is_needed_elsewhere(&self) -> bool {
        matches!(&self.failure, Failure::Refused { code, .. } if code == DEPENDENT_OBJECTS)
    }

    /// Whether PostgreSQL has answered that it does not do this.
    pub fn is_refusal(&self) -> bool {
        matches!(&self.failure, Failure::Refused { .. })
    }

    /// The error where nothing in the spec can be the reason.
    pub fn into_error(self, server: &ServerPool) -> Error {
        self.failure.into_error(&server.name)
    }

    fn explain(self, server: &ServerPool, desired: &Desired) -> Error {
        let Failure::Refused { code, message } = &self.failure else { return self.into_error(server) };
        let sets = self.steps.iter().any(|step| matches!(step, Step::Set { .. }));
        match self.steps.as_slice() {
            [Step::Extension { extension, .. }] if !is_transient(code) => Error::structural(
                "ExtensionRefused",
                format!(
                    "spec.extensions: DatabaseServer {} refuses the extension {extension}: {message}. Take it out, or install it on \
                     the server",
                    server.name
                ),
            ),
            // invalid_parameter_value; undefined_object and insufficient_privilege, where they are about a parameter
            _ if sets && (code == "22023" || (code == "42704" || code == "42501") && message.contains("parameter")) => {
                parameters::refused_by_server(&desired.parameters, message)
            }
            _ => self.into_error(server),
        }
    }
}

/// Resources, operator intervention and locks pass by.
fn is_transient(code: &str) -> bool {
    ["40", "53", "55", "57", "58"].iter().any(|class| code.starts_with(class))
}

/// Runs the steps in their order.
pub async fn run(server: &ServerPool, names: &Names, version: i32, steps: &[Step]) -> Result<(), Failed> {
    for group in steps.chunk_by(|one, other| one.place() == other.place() && one.place() != Place::Alone) {
        match group.first().map(Step::place) {
            Some(Place::Alone) => alone(server, version, group).await?,
            Some(Place::Server) => together(server, version, group).await?,
            Some(Place::Inside) => inside(server, names, version, group).await?,
            None => {}
        }
    }
    Ok(())
}

async fn alone(server: &ServerPool, version: i32, group: &[Step]) -> Result<(), Failed> {
    let is_heavy = |step: &Step| matches!(step, Step::CreateDatabase { .. } | Step::DropDatabase { .. });
    if !group.iter().any(is_heavy) {
        return together(server, version, group).await;
    }
    let Ok(_slot) = tokio::time::timeout(SLOT_TIMEOUT, server.changes.acquire()).await else {
        return Err(Failed { steps: group.to_vec(), failure: Failure::Busy });
    };
    together(server, version, group).await
}

async fn together(server: &ServerPool, version: i32, group: &[Step]) -> Result<(), Failed> {
    let sql = group.iter().map(|step| step.sql(version)).collect::<Vec<_>>().join(";\n");
    server.run(&sql).await.map_err(|failure| Failed { steps: group.to_vec(), failure })?;
    for step in group {
        if let Step::Login { role, .. } = step {
            server.memory.lock().wrong_passwords.remove(role);
        }
    }
    Ok(())
}

/// One by one, so that a failure has a name.
async fn inside(server: &ServerPool, names: &Names, version: i32, group: &[Step]) -> Result<(), Failed> {
    let failed = |failure, step: &Step| Failed { steps: vec![step.clone()], failure };
    let Some(first) = group.first() else { return Ok(()) };
    let mut connection = server.inside(&names.database).await.map_err(|failure| failed(failure, first))?;
    for step in group {
        let sql = step.sql(version);
        let mut done = server.run_inside(&mut connection, &sql).await;
        let ends_sessions = matches!(step, Step::RefuseWrites { .. });
        for _ in 0..LOCK_ATTEMPTS {
            if !(ends_sessions && matches!(&done, Err(Failure::Refused { code, .. }) if code == LOCK_NOT_AVAILABLE)) {
                break;
            }
            done = server.run_inside(&mut connection, &sql).await;
        }
        done.map_err(|failure| failed(failure, step))?;
        if let Step::Extension { extension, .. } = step {
            let mut memory = server.memory.lock();
            let lost = memory.lost_extensions.get_mut(&names.database);
            lost.into_iter().for_each(|lost| _ = lost.remove(extension));
        }
    }
    // Done is done, however the connection ends.
    let _ = sqlx::Connection::close(connection).await;
    Ok(())
}
