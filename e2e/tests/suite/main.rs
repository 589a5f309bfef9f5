//! What the suite does for its users, on a real cluster. The tests share the cluster and run side by side; each has
//! customers of its own.

mod admission;
mod adoption;
mod contents;
mod database;
mod drift;
mod endpoints;
mod examples;
mod fan_out;
mod fleet_faults;
mod full_pool;
mod held;
mod in_use;
mod isolation;
mod kept;
mod limits;
mod logins;
mod migration;
mod monitoring;
mod namespace;
mod network;
mod options;
mod ordinary_role;
mod pool;
mod quota;
mod reasons;
mod reconnect;
mod rights;
mod samples;
mod shards;
mod strangers;
mod tampering;
mod tls;
mod toggles;
mod truth;
