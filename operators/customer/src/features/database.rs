//! The feature `database`.

use ahoi_api::{Credentials, Customer, Database, DatabaseSpec, finalizers};
use ahoi_reconcile::conditions::Condition;
use kube::ResourceExt;

use super::chain::Chain;
use super::feature::{Desired, Feature, awaits_namespace, wait_for_namespace, with_fields_of_the_customer};
use crate::children::child_meta;
use crate::wanted::Wanted;

pub struct DatabaseFeature;

impl Feature for DatabaseFeature {
    type Child = Database;
    const NAME: &'static str = "database";
    const CONDITION: &'static str = "DatabaseReady";
    const FIELDS: &'static [&'static str] =
        &["storage", "serverSelector", "connectionLimit", "parameters", "extensions", "credentials"];
    const MIRRORED: &'static [&'static str] = &["StorageQuotaOk"];

    fn desired(wanted: &Wanted, chain: &Chain) -> Desired<Database> {
        let Some(spec) = &wanted.database else {
            // The route goes before the logins are closed, or clients of the pool see errors of a database that is there.
            return if chain.connection_pool.is_some() {
                Desired::Linger { message: "waiting for the connection pool to be removed" }
            } else {
                Desired::Off
            };
        };
        if awaits_namespace(chain.database.as_ref(), chain) {
            return wait_for_namespace(wanted);
        }
        Desired::Child(Box::new(database_child(&wanted.name, spec.clone())))
    }

    fn essential(customer: &Customer, child: &Database) -> Database {
        let own = customer.spec.features.database.as_ref().and_then(|f| f.credentials.as_ref());
        let now = child.spec.credentials.as_ref();
        let field = |get: fn(&Credentials) -> Option<String>| own.and_then(get).or_else(|| now.and_then(get));
        let credentials = Credentials {
            rotation_interval: field(|c| c.rotation_interval.clone()),
            rotation_trigger: field(|c| c.rotation_trigger.clone()),
        };
        let credentials = (credentials != Credentials::default()).then_some(credentials);
        database_child(&customer.name_any(), DatabaseSpec { credentials, ..child.spec.clone() })
    }

    fn in_words_of_the_customer(child: &Database, condition: &Condition) -> String {
        let storage = &child.spec.storage;
        match condition.reason.as_str() {
            "StorageQuotaExceeded" => format!(
                "the database uses more than its storage of {storage} and refuses writes until it uses less than 90 % of it: \
                 delete data or raise spec.features.database.storage"
            ),
            "StorageQuotaWarning" => format!(
                "the database uses at least 80 % of its storage of {storage}, and refuses writes when it is used up: delete \
                 data or raise spec.features.database.storage"
            ),
            _ => with_fields_of_the_customer::<Self>(&condition.message),
        }
    }

    fn is_outage(condition: &Condition) -> bool {
        matches!(condition.reason.as_str(), "StorageQuotaExceeded" | "StorageQuotaBreached")
    }
}

/// The customer's Database.
pub fn database_child(customer: &str, spec: DatabaseSpec) -> Database {
    let mut child = Database::new(customer, spec);
    child.metadata = child_meta::<Database>(customer, Some(finalizers::DATABASE));
    child
}
