//! What a deletion does to a database, for both controllers: at once, or when its server is reachable again.

use ahoi_api::DeletionPolicy;
use ahoi_reconcile::Error;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use tracing::info;

use crate::memory::Instance;
use crate::postgres::desired::Identity;
use crate::postgres::names::Names;
use crate::postgres::removal as postgres_removal;

/// The removal of a database.
pub struct Removal {
    /// Names of the database and its roles.
    pub names: Names,
    /// The deleted object. A database of another one is not changed.
    pub identity: Identity,
    /// The deletion policy of the object.
    pub policy: DeletionPolicy,
    /// When the object was deleted.
    pub since: Time,
}

/// Applies the deletion policy on the server. The result is the reason if nothing was done because the database belongs to
/// another object.
pub async fn apply_deletion_policy(instance: &Instance, removal: &Removal) -> Result<Option<String>, Error> {
    let Removal { names, identity, policy, since } = removal;
    let on_server = postgres_removal::Removal { names, identity, policy: *policy, deleted_at: since.0.as_second() };
    let refusal = postgres_removal::apply_deletion_policy(&instance.postgres, &on_server).await?;
    if refusal.is_none() {
        info!(server = instance.name, database = names.database, ?policy, "applied the deletion policy");
    }
    let mut memory = instance.memory.lock();
    memory.sizes.remove(&names.database);
    if *policy == DeletionPolicy::Retain {
        memory.unclaimed.insert(identity.object.clone());
    }
    Ok(refusal)
}
