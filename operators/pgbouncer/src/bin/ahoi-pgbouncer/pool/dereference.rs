//! The objects that a pool refers to.

use std::sync::Arc;

use ahoi_api::{ConnectionPool, Database, DatabaseServer, POOLER_CERTIFICATES_SECRET, Passwords, PgBouncer, Reason};
use ahoi_pgbouncer::certificates::Material;
use ahoi_reconcile::{Cache, Error, is_ready, not_ready_message};
use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt;

use crate::shared::Shared;

/// The caches of everything that pools refer to.
pub struct Sources {
    pub shared: Shared,
    pub databases: Cache<Database>,
    /// The databases' own binding Secrets.
    pub direct: Cache<Secret>,
}

/// Everything that a pool's route and Secret are made from.
#[derive(Clone, Debug)]
pub struct Inputs {
    pub fleet: Arc<PgBouncer>,
    pub server: Arc<DatabaseServer>,
    /// The database's name on the server.
    pub database: String,
    pub credentials: Credentials,
    /// The login before the last rotation, while it is open.
    pub previous_login: Option<String>,
    /// The certificates of the fleet.
    pub certificates: Material,
}

impl Inputs {
    /// Where the fleet gets the verifiers of passwords.
    pub fn passwords(&self) -> Passwords {
        self.server.status.as_ref().and_then(|status| status.passwords).unwrap_or_default()
    }
}

/// The login of an application.
#[derive(Clone)]
pub struct Credentials {
    pub username: String,
    pub password: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").field("username", &self.username).finish_non_exhaustive()
    }
}

impl Sources {
    /// Finds everything that the pool refers to, in caches alone.
    pub fn dereference(&self, pool: &ConnectionPool) -> Result<Inputs, Error> {
        let namespace = pool.namespace().unwrap_or_default();
        let fleet = self.fleet(pool)?;
        let database = self.database(pool)?;
        let (server, database_name, binding) = coordinates(&database)?;
        let server = self.shared.servers.find("", server)?.ok_or_else(|| {
            Error::structural(
                Reason::DatabaseServerNotFound,
                format!("DatabaseServer {server} does not exist. Create it again with the spec that it had"),
            )
        })?;
        let direct = self.direct.find(&namespace, binding)?.ok_or_else(|| {
            let name = database.name_any();
            Error::waiting(
                Reason::WaitingForDatabase,
                format!("the Secret {binding} of the Database {name} does not exist yet"),
            )
        })?;
        let credentials = credentials(&direct)?;
        let status = database.status.as_ref().and_then(|status| status.credentials.as_ref());
        let previous_login = status.and_then(|credentials| credentials.previous_login.clone());
        let certificates =
            self.shared.secrets.get_in(&fleet.namespace().unwrap_or_default(), POOLER_CERTIFICATES_SECRET);
        let certificates = Material::read(certificates.as_deref(), &fleet.name_any());
        let database = database_name.to_owned();
        Ok(Inputs { fleet, server, database, credentials, previous_login, certificates })
    }

    fn fleet(&self, pool: &ConnectionPool) -> Result<Arc<PgBouncer>, Error> {
        let reference = &pool.spec.pg_bouncer_ref;
        self.shared.fleet(reference)?.ok_or_else(|| {
            Error::structural(
                Reason::PgBouncerNotFound,
                format!(
                    "spec.pgBouncerRef points to the PgBouncer {}/{}, which does not exist. Create it or point to another",
                    reference.namespace, reference.name
                ),
            )
        })
    }

    /// An existing route stays whatever happens to its database; a new one waits until the database is Ready.
    fn database(&self, pool: &ConnectionPool) -> Result<Arc<Database>, Error> {
        let name = &pool.spec.database_ref.name;
        let database = self.databases.find(&pool.namespace().unwrap_or_default(), name)?.ok_or_else(|| {
            Error::waiting(
                Reason::DatabaseNotFound,
                format!("spec.databaseRef points to the Database {name}, which does not exist"),
            )
        })?;
        let is_routed = pool.status.as_ref().is_some_and(|status| status.route.is_some());
        if !is_routed && !is_ready(&*database) {
            return Err(Error::waiting(Reason::WaitingForDatabase, not_ready_message(&*database)));
        }
        Ok(database)
    }
}

/// The database's server, its name there, and the name of its Secret.
fn coordinates(database: &Database) -> Result<(&str, &str, &str), Error> {
    let coordinates = database.status.as_ref().and_then(|status| {
        Some((status.server.as_deref()?, status.database_name.as_deref()?, status.binding.as_ref()?.name.as_str()))
    });
    coordinates.ok_or_else(|| Error::waiting(Reason::WaitingForDatabase, not_ready_message(database)))
}

fn credentials(secret: &Secret) -> Result<Credentials, Error> {
    let field = |name: &str| {
        let bytes = secret.data.as_ref()?.get(name)?;
        String::from_utf8(bytes.0.clone()).ok().filter(|text| !text.is_empty())
    };
    let credentials =
        field("username").zip(field("password")).map(|(username, password)| Credentials { username, password });
    credentials.ok_or_else(|| {
        Error::waiting(
            Reason::WaitingForDatabase,
            format!("the Secret {} has no username or no password", secret.name_any()),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_output_contains_no_password() {
        let credentials = Credentials { username: "u".into(), password: "secret".into() };
        assert!(!format!("{credentials:?}").contains("secret"));
    }
}
