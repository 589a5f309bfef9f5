//! The feature `database`.

mod retained;
pub mod spec;
mod storage;

use ahoi_api::{Credentials, Customer, CustomerStatus, Database, DatabaseSpec, FeatureState, Features, Reason, Size};
use ahoi_reconcile::conditions::Condition;
use ahoi_reconcile::{Error, is_ready};
use kube::ResourceExt;

use self::spec::{database_child, database_spec};
use super::chain::Chain;
use super::feature::{Desired, Feature, Observed, awaits_namespace, wait_for_namespace, with_fields_of_the_customer};
use super::inputs::Inputs;
use super::limits::replace;
use crate::offboarding::Offboarding;
use crate::wanted::Wanted;

/// The database of a customer.
pub struct DatabaseFeature;

impl Feature for DatabaseFeature {
    type Child = Database;
    const NAME: &'static str = storage::FEATURE;
    const CONDITION: &'static str = "DatabaseReady";
    const FIELDS: &'static [&'static str] =
        &["storage", "serverSelector", "connectionLimit", "parameters", "extensions", "credentials"];
    const MIRRORED: &'static [&'static str] = &["StorageQuotaOk"];

    fn enabled(features: &Features) -> Option<bool> {
        features.database.as_ref()?.enabled
    }

    fn resolve(inputs: &Inputs<'_>, wanted: &mut Wanted) -> Option<DatabaseSpec> {
        if !inputs.enabled(Self::enabled).unwrap_or(false) {
            return None;
        }
        let storage = storage::resolve(inputs, &mut wanted.held);
        wanted.default_storage = storage.default;
        Some(DatabaseSpec { storage: storage.size?, ..database_spec(inputs) })
    }

    fn adjust(inputs: &Inputs<'_>, wanted: &mut Wanted) {
        let Some(size) = wanted.database.as_ref().map(|database| database.storage.clone()) else { return };
        if let Some(held) = storage::limit(inputs, &size) {
            wanted.held.push(held);
            let kept = storage::in_force(inputs.customer, inputs.in_force);
            replace(&mut wanted.database, kept, |spec, kept| spec.storage = kept);
        }
    }

    fn desired(wanted: &Wanted, chain: &Chain) -> Desired<Database> {
        let Some(spec) = &wanted.database else {
            // The pool is removed before the logins are closed, so that its clients see no errors of an existing database.
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
            rotation_request: field(|c| c.rotation_request.clone()),
        };
        let credentials = (credentials != Credentials::default()).then_some(credentials);
        database_child(&customer.name_any(), DatabaseSpec { credentials, ..child.spec.clone() })
    }

    fn in_words_of_the_customer(child: &Database, condition: &Condition) -> String {
        let storage = &child.spec.storage;
        match Reason::parse(&condition.reason) {
            Some(Reason::StorageQuotaExceeded) => format!(
                "the database uses more than its storage of {storage} and refuses writes until it uses less than 90 % of it: \
                 delete data or raise spec.features.database.storage"
            ),
            Some(Reason::StorageQuotaWarning) => format!(
                "the database uses at least 80 % of its storage of {storage}, and refuses writes when it is used up: delete \
                 data or raise spec.features.database.storage"
            ),
            _ => with_fields_of_the_customer::<Self>(&condition.message),
        }
    }

    fn is_outage(condition: &Condition) -> bool {
        let reason = Reason::parse(&condition.reason);
        matches!(reason, Some(Reason::StorageQuotaExceeded | Reason::StorageQuotaBreached))
    }

    fn record(status: &mut CustomerStatus, observed: &Observed<'_>) {
        let &Observed { customer, chain, .. } = observed;
        let database = chain.database.as_ref().and_then(|database| database.status.as_ref());
        let credentials = database.and_then(|status| status.credentials.as_ref());
        status.credentials_rotated_at = credentials.map(|credentials| credentials.rotated_at.clone());
        status.storage_bytes = storage::in_force(customer, chain).as_ref().and_then(|size| Size::bytes(size).ok());
        status.default_storage_bytes = default_storage(observed);
        status.database_retained = is_retained(observed);
        status.database_server = server(customer, chain);
    }

    async fn prepare_removal(offboarding: &Offboarding<'_>) -> Result<bool, Error> {
        retained::restore_for_deletion(offboarding).await
    }

    fn apply_deletion_policy(customer: &Customer, child: &mut Database) {
        child.spec.deletion_policy = customer.spec.deletion_policy;
    }
}

/// The server of the database. It is recorded when the Database is Ready: before, it would need a write of its own.
fn server(customer: &Customer, chain: &Chain) -> Option<String> {
    match chain.database.as_deref().filter(|database| is_ready(*database)) {
        Some(database) => database.status.as_ref()?.server.clone(),
        None => customer.status.as_ref()?.database_server.clone(),
    }
}

/// The default of the storage that has been applied. While the feature is Stalled, a changed default has not been.
fn default_storage(observed: &Observed<'_>) -> Option<i64> {
    match observed.report.map(|report| report.state) {
        Some(FeatureState::Stalled) => {
            observed.customer.status.as_ref().and_then(|status| status.default_storage_bytes)
        }
        _ => observed.wanted.default_storage,
    }
}

/// Whether there is data without a Database: from the moment the feature is turned off until a Database is Ready again. One that
/// is not Ready may not have adopted the data yet.
fn is_retained(observed: &Observed<'_>) -> bool {
    let is_adopted = observed.report.is_some_and(|report| report.state == FeatureState::Ready)
        || observed.chain.database.as_deref().is_some_and(is_ready);
    observed.customer.status.as_ref().is_some_and(|status| status.database_retained) && !is_adopted
}
