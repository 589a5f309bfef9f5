//! The kinds with a status.

use crate::*;

conditioned! {
    Customer: CustomerStatus,
    Plan: PlanStatus,
    CustomerNamespace: CustomerNamespaceStatus,
    DatabaseServer: DatabaseServerStatus,
    Database: DatabaseStatus,
    PgBouncer: PgBouncerStatus,
    ConnectionPool: ConnectionPoolStatus,
    Scheduler: SchedulerStatus,
}
