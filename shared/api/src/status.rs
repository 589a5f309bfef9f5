//! What every status has in common, told to the reconcile crate: `observedGeneration` and `conditions`.

use crate::*;

ahoi_reconcile::conditioned! {
    Customer: CustomerStatus,
    Plan: PlanStatus,
    CustomerNamespace: CustomerNamespaceStatus,
    DatabaseServer: DatabaseServerStatus,
    Database: DatabaseStatus,
    PgBouncer: PgBouncerStatus,
    ConnectionPool: ConnectionPoolStatus,
    Scheduler: SchedulerStatus,
}
