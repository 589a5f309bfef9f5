//! What a pool refers to.

use std::sync::Arc;

use ahoi_api::{ConnectionPool, Database, DatabaseServer, POOLER_CERTIFICATES_SECRET, Passwords, PgBouncer};
use ahoi_pgbouncer::certificates::Material;
use ahoi_reconcile::{Error, is_ready, not_ready_message};
use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt;

use super::tls::check as check_tls;
use super::{PoolController, fleet_name};

/// Everything a pool's route and Secret are made from.
#[derive(Clone, Debug)]
pub struct Resolved {
    pub fleet: Arc<PgBouncer>,
    pub server: Arc<DatabaseServer>,
    /// The database's name on the server.
    pub database: String,
    pub credentials: Credentials,
    /// The login that was given away before and is still open.
    pub former: Option<String>,
    /// What the fleet shows its clients.
    pub certificates: Material,
}

impl Resolved {
    /// How the fleet comes by passwords.
    pub fn passwords(&self) -> Passwords {
        passwords(&self.server)
    }
}

fn passwords(server: &DatabaseServer) -> Passwords {
    server.status.as_ref().and_then(|status| status.passwords).unwrap_or_default()
}

/// What an application logs in with.
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

impl PoolController {
    /// Looks up what the pool refers to; the caches know all of it.
    pub(super) fn resolve(&self, pool: &ConnectionPool) -> Result<Resolved, Error> {
        let namespace = pool.namespace().unwrap_or_default();
        let fleet = self.shared.fleet(&pool.spec.pg_bouncer_ref)?.ok_or_else(|| {
            Error::structural(
                "PgBouncerNotFound",
                format!(
                    "spec.pgBouncerRef names the PgBouncer {}, which does not exist: create it or name another",
                    fleet_name(pool)
                ),
            )
        })?;
        let name = &pool.spec.database_ref.name;
        let database = self.databases.find(&namespace, name)?.ok_or_else(|| {
            Error::waiting(
                "DatabaseNotFound",
                format!("spec.databaseRef names the Database {name}, which does not exist"),
            )
        })?;
        // A route that is there stays, whatever the database is doing; only a new one waits for it.
        let routed = pool.status.as_ref().is_some_and(|status| status.route.is_some());
        if !routed && !is_ready(&*database) {
            return Err(Error::waiting("WaitingForDatabase", not_ready_message(&*database)));
        }
        let (server, database_name, binding) = places(&database)?;
        let server = self.shared.servers.find("", server)?.ok_or_else(|| {
            Error::structural(
                "DatabaseServerNotFound",
                format!("DatabaseServer {server} does not exist: create it again with the spec that it had"),
            )
        })?;
        check_tls(&server, &fleet)?;
        let has_login = server.status.as_ref().is_some_and(|status| status.pooler_login.is_some());
        if !has_login && passwords(&server) == Passwords::Lookup {
            return Err(Error::waiting(
                "DatabaseServerNotPrepared",
                format!("the DatabaseServer {} has no login for the pooler yet", server.name_any()),
            ));
        }
        let direct = self.direct.find(&namespace, binding)?;
        let direct = direct.ok_or_else(|| {
            Error::waiting(
                "WaitingForDatabase",
                format!("the Secret {binding} of the Database {name} does not exist yet"),
            )
        })?;
        let credentials = credentials(&direct)?;
        let status = database.status.as_ref().and_then(|status| status.credentials.as_ref());
        let former = status.and_then(|credentials| credentials.previous_login.clone());
        let certificates =
            self.shared.secrets.get_in(&fleet.namespace().unwrap_or_default(), POOLER_CERTIFICATES_SECRET);
        let certificates = Material::read(certificates.as_deref(), &fleet.name_any());
        let database = database_name.to_owned();
        Ok(Resolved { fleet, server, database, credentials, former, certificates })
    }
}

/// The database's server, its name there, and its Secret.
fn places(database: &Database) -> Result<(&str, &str, &str), Error> {
    let places = database.status.as_ref().and_then(|status| {
        Some((status.server.as_deref()?, status.database_name.as_deref()?, status.binding.as_ref()?.name.as_str()))
    });
    places.ok_or_else(|| Error::waiting("WaitingForDatabase", not_ready_message(database)))
}

fn credentials(secret: &Secret) -> Result<Credentials, Error> {
    let field = |name: &str| {
        let bytes = secret.data.as_ref()?.get(name)?;
        String::from_utf8(bytes.0.clone()).ok().filter(|text| !text.is_empty())
    };
    let credentials =
        field("username").zip(field("password")).map(|(username, password)| Credentials { username, password });
    credentials.ok_or_else(|| {
        Error::waiting("WaitingForDatabase", format!("the Secret {} has no username and password", secret.name_any()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_password_is_in_the_debug_output() {
        let credentials = Credentials { username: "u".into(), password: "secret".into() };
        assert!(!format!("{credentials:?}").contains("secret"));
    }
}
