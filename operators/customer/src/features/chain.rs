//! The children of a customer.

use std::sync::Arc;

use ahoi_api::{ConnectionPool, CustomerNamespace, Database, Scheduler};

/// What the features before this one in the chain have come to.
#[derive(Debug, Default)]
pub struct Chain {
    pub namespace: Option<Arc<CustomerNamespace>>,
    pub database: Option<Arc<Database>>,
    pub connection_pool: Option<Arc<ConnectionPool>>,
    pub scheduler: Option<Arc<Scheduler>>,
}
