//! The feature `database`.

use ahoi_api::{Database, DatabaseSpec, finalizers};
use ahoi_reconcile::Error;

use super::{Chain, Desired, Feature, awaits_namespace, child_meta, wait_for_namespace};
use crate::resolve::{Wanted, bytes};

pub struct DatabaseFeature;

impl Feature for DatabaseFeature {
    type Child = Database;
    const NAME: &'static str = "database";
    const CONDITION: &'static str = "DatabaseReady";

    fn desired(wanted: &Wanted, chain: &Chain) -> Result<Desired<Database>, Error> {
        let Some(spec) = &wanted.database else {
            // The route goes before the logins are closed, or clients of the pool see errors of a database that is there.
            return Ok(if chain.connection_pool.is_some() {
                Desired::Linger { message: "waiting for the connection pool to be removed" }
            } else {
                Desired::Off
            });
        };
        if awaits_namespace(chain.database.as_ref(), chain) {
            return Ok(wait_for_namespace());
        }
        if let Some(existing) = &chain.database
            && bytes("database.storage", &spec.storage)? < bytes("database.storage", &existing.spec.storage)?
        {
            // Admission sees a field that shrinks, not one that is taken out so that a smaller default shows.
            return Ok(Desired::Stall {
                reason: "StorageCannotShrink",
                message: format!(
                    "spec.features.database.storage would shrink from {} to {}: set it to at least {0}",
                    existing.spec.storage, spec.storage
                ),
            });
        }
        Ok(Desired::Child(Box::new(database_child(&wanted.name, spec.clone()))))
    }
}

/// The customer's Database.
pub fn database_child(customer: &str, spec: DatabaseSpec) -> Database {
    let mut child = Database::new(customer, spec);
    child.metadata = child_meta(customer, Some(finalizers::DATABASE));
    child
}
