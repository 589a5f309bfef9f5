//! The stages `validate` and `dereference`: what the spec demands, and the objects that the Database refers to.

use std::sync::Arc;

use ahoi_api::{ConnectionPool, Database, DatabaseServer, Reason};
use ahoi_reconcile::Error;
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, ResourceExt};

use crate::context::Context;
use crate::memory::Instance;
use crate::object;
use crate::postgres::desired::OtherLogin;
use crate::postgres::names::Names;
use crate::postgres::parameters;
use crate::secret;

/// A spec without errors.
#[derive(Clone, Copy, Debug)]
pub struct Validated {
    /// Storage in bytes.
    pub storage: i64,
}

/// Checks the spec.
pub fn validate(database: &Database) -> Result<Validated, Error> {
    let storage = database.spec.storage.bytes();
    let storage = storage.map_err(|error| Error::terminal(Reason::InvalidSize, format!("spec.storage: {error}")))?;
    parameters::check(&database.spec.parameters)?;
    Ok(Validated { storage })
}

/// A Database with a server, and the objects that it refers to.
pub struct References {
    /// The Database.
    pub database: Arc<Database>,
    /// Its DatabaseServer.
    pub server: Arc<DatabaseServer>,
    /// The PostgreSQL of that server.
    pub instance: Instance,
    /// Names of the database and its roles, with the login in use.
    pub names: Names,
    /// State of the other login.
    pub other: OtherLogin,
    /// The binding Secret.
    pub binding: Option<Arc<Secret>>,
    /// The ConnectionPools of the Database.
    pub connection_pools: Vec<Arc<ConnectionPool>>,
}

impl References {
    /// Version of the binding Secret that was written last.
    pub fn known_version(&self) -> Option<&str> {
        let status = self.database.status.as_ref()?;
        status.binding.as_ref().map(|binding| binding.version.as_str())
    }
}

/// Collects the objects that a placed Database refers to.
pub async fn dereference(context: &Context, database: Arc<Database>) -> Result<References, Error> {
    let status = database.status.clone().unwrap_or_default();
    let (Some(server), Some(name)) = (&status.server, &status.database_name) else {
        return Err(Error::Conflict("the status was emptied".to_owned()));
    };
    let (server, instance) = context.usable(server)?;
    let binding = match binding(context, &database)? {
        // A Secret without its label is not in the cache, and not lost.
        None if status.binding.is_some() => unlabelled_binding(context, &database).await?,
        binding => binding,
    };
    let (names, other) = object::logins(&status, binding.as_deref(), name);
    let mut connection_pools = context.caches.connection_pools.all();
    connection_pools
        .retain(|pool| pool.namespace() == database.namespace() && pool.spec.database_ref.name == database.name_any());
    Ok(References { database, server, instance, names, other, binding, connection_pools })
}

/// The binding Secret in the cache. An unreadable one is not lost.
fn binding(context: &Context, database: &Database) -> Result<Option<Arc<Secret>>, Error> {
    let namespace = database.namespace().unwrap_or_default();
    context.caches.bindings.cache().find(&namespace, &secret::name_of(&database.name_any()))
}

/// The Secret with the name of the binding, whatever its labels.
async fn unlabelled_binding(context: &Context, database: &Database) -> Result<Option<Arc<Secret>>, Error> {
    let client = context.platform.client.clone();
    let secrets: Api<Secret> = Api::namespaced(client, &database.namespace().unwrap_or_default());
    Ok(secrets.get_opt(&secret::name_of(&database.name_any())).await?.map(Arc::new))
}
