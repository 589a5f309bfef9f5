//! Closes, archives or drops a database, as the deletion policy of its object demands.

use ahoi_api::{DeletionPolicy, Reason};
use ahoi_reconcile::Error;
use postgres_protocol::escape::escape_identifier;
use tracing::warn;

use super::desired::Identity;
use super::execute;
use super::failure::Failure;
use super::names::Names;
use super::observe;
use super::plan::{self, Refusal};
use super::server::Postgres;
use super::step::Step;

/// What is to be done with a database.
pub struct Removal<'a> {
    /// Its names.
    pub names: &'a Names,
    /// The object that it must belong to.
    pub identity: &'a Identity,
    /// The deletion policy of that object.
    pub policy: DeletionPolicy,
    /// When the object was deleted, in seconds since 1970; part of the name of an archived database.
    pub deleted_at: i64,
}

/// Applies the deletion policy. The result is the reason if nothing was done because the database belongs to another object.
pub async fn apply_deletion_policy(postgres: &Postgres, removal: &Removal<'_>) -> Result<Option<String>, Error> {
    let Removal { names, identity, policy, deleted_at } = removal;
    let observed = observe::one(postgres, names).await?;
    let plan = match policy {
        DeletionPolicy::Retain => plan::retain(names, identity, &observed),
        DeletionPolicy::Archive => plan::archive(names, identity, &observed, names.archived(*deleted_at)),
        DeletionPolicy::Delete => plan::delete(names, identity, &observed),
    };
    match plan {
        Ok(steps) => run(postgres, names, observed.version, &steps).await.map(|()| None),
        Err(Refusal::NotOurs(note) | Refusal::Missing(note)) => Ok(Some(note)),
    }
}

/// Closes the logins of a database that has no object any more, and keeps its data.
pub async fn close(postgres: &Postgres, names: &Names, identity: &Identity) -> Result<(), Error> {
    let observed = observe::one(postgres, names).await?;
    let steps = plan::retain(names, identity, &observed).map_err(|refusal| execute::refused(postgres, refusal))?;
    execute::run(postgres, names, observed.version, &steps).await.map_err(|failed| failed.into_error(postgres))
}

/// Runs the steps; roles are dropped one by one, so that an obstacle to one of them does not block the others.
async fn run(postgres: &Postgres, names: &Names, version: i32, steps: &[Step]) -> Result<(), Error> {
    let (roles, rest): (Vec<_>, Vec<_>) = steps.iter().cloned().partition(|step| matches!(step, Step::DropRole { .. }));
    execute::run(postgres, names, version, &rest).await.map_err(|failed| failed.into_error(postgres))?;
    let mut in_use = Vec::new();
    for step in roles {
        let Step::DropRole { role } = &step else { continue };
        let drop = async || execute::run(postgres, names, version, std::slice::from_ref(&step)).await;
        match drop().await {
            Err(failed) if failed.is_needed_elsewhere() => {
                let owns_in = revoke_elsewhere(postgres, role).await?;
                match drop().await {
                    Err(failed) if failed.is_needed_elsewhere() => {
                        in_use.push(format!("{}{}", failed.into_error(postgres), remedy(role, &owns_in)));
                    }
                    outcome => outcome.map_err(|failed| failed.into_error(postgres))?,
                }
            }
            outcome => outcome.map_err(|failed| failed.into_error(postgres))?,
        }
    }
    if in_use.is_empty() { Ok(()) } else { Err(Error::structural(Reason::RoleInUse, in_use.join("; "))) }
}

/// What an administrator can do about a role that owns objects in these databases.
fn remedy(role: &str, databases: &[String]) -> String {
    if databases.is_empty() {
        return String::new();
    }
    format!(
        ". Drop these objects, or run `REASSIGN OWNED BY {} TO` another role in database {}",
        escape_identifier(role).trim(),
        databases.join(" and in database ")
    )
}

/// Revokes what others have granted to a role outside of its own database. Returns the databases where the role owns objects:
/// nothing is done there, because they would be dropped as well.
async fn revoke_elsewhere(postgres: &Postgres, role: &str) -> Result<Vec<String>, Error> {
    let mut owns_in = Vec::new();
    let error = |failure: Failure| failure.into_error(&postgres.name);
    for (database, owns) in postgres.pairs(DEPENDENCIES, role).await.map_err(error)? {
        if owns == "true" {
            warn!(server = postgres.name, role, database, "the role owns objects outside of its own database");
            owns_in.push(database);
            continue;
        }
        let mut connection = postgres.inside(&database).await.map_err(error)?;
        let revoked = postgres.run_inside(&mut connection, &format!("DROP OWNED BY {}", escape_identifier(role))).await;
        // Closing may fail; the connection ends anyway.
        let _ = sqlx::Connection::close(connection).await;
        revoked.map_err(error)?;
    }
    Ok(owns_in)
}

/// Databases in which an object depends on a role, and whether the role owns anything there. Objects that databases share count
/// for the admin database. Default privileges are owned as well, but no data would be lost with them.
const DEPENDENCIES: &str = "SELECT coalesce(d.datname, current_database())::text, \
     bool_or(s.deptype = 'o' AND s.classid <> 'pg_default_acl'::regclass)::text \
     FROM pg_shdepend s LEFT JOIN pg_database d ON d.oid = s.dbid \
     WHERE s.refclassid = 'pg_authid'::regclass AND s.refobjid = (SELECT oid FROM pg_roles WHERE rolname = $1) GROUP BY 1";
