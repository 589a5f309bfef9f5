//! Names of the report that several scenarios share.

/// Row of the report: memory of the controllers.
pub const MEMORY: &str = "memory of Ahoi beyond that without customers, per customer";
/// Kind of the customers without a database.
pub const FAN_OUT: &str = "fan-out only";
/// Kind of the customers with every feature.
pub const WHOLE: &str = "with PostgreSQL, a pool and a worker";
/// Plot that compares Ahoi, the floor and the peers.
pub const FAN_OUT_PLOT: &str = "the same fan-out";
