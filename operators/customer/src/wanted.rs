//! What a customer shall have.

use ahoi_api::{ConnectionPoolSpec, CustomerNamespaceSpec, DatabaseSpec, SchedulerSpec};

use crate::held::Held;

/// What a customer shall have. `None` is a feature that is off, or held back before it was created.
#[derive(Debug)]
pub struct Wanted {
    pub name: String,
    pub plan: Option<String>,
    pub suspended: bool,
    /// None: it is not created, and one that exists stays as it is.
    pub namespace: Option<CustomerNamespaceSpec>,
    pub database: Option<DatabaseSpec>,
    pub connection_pool: Option<ConnectionPoolSpec>,
    /// Without its binding, which is known only once the database or the pool is there.
    pub scheduler: Option<SchedulerSpec>,
    pub webhooks: bool,
    pub previews: bool,
    /// The default of the storage, in bytes, while the customer has a database.
    pub default_storage: Option<i64>,
    /// What of the spec is not applied, and why.
    pub held: Vec<Held>,
}
