//! The features of a Customer, one file or folder each.
//!
//! A feature implements [`feature::Feature`]. That trait has everything that differs between features: the fields of Customer
//! and Plan, the limits, the child object, what the child waits for, its conditions, and how it is removed.
//!
//! To add a feature, write its file, declare its module, and add its line to `each_feature`.

/// Calls the macro `$with` with every feature, in the order of creation. Removal runs in the reverse order.
///
/// A line consists of the module of the feature, its type, and the kind of its child. The name of the module is also that of
/// its fields in `Chain`, `Children` and `Wanted`.
macro_rules! each_feature {
    ($with:ident) => {
        $with! {
            namespace: NamespaceFeature => CustomerNamespace,
            database: DatabaseFeature => Database,
            connection_pool: ConnectionPoolFeature => ConnectionPool,
            scheduler: SchedulerFeature => Scheduler,
        }
    };
}

pub mod announced;
pub mod chain;
pub mod connection_pool;
pub mod converge;
pub mod database;
pub mod feature;
pub mod inputs;
pub mod keep;
pub mod limits;
pub mod namespace;
pub mod registry;
pub mod remove;
pub mod report;
pub mod scheduler;

#[cfg(test)]
mod tests;
