//! The controller of DatabaseServers: each is connected to, prepared once, and swept every minute.

mod cleanup;
mod controller;
mod databases;
mod disk;
mod extensions;
mod fleets;
mod kept;
mod maintenance;
mod measure;
mod other_clusters;
mod passwords;
mod pooler;
mod pooler_secret;
mod removed_poolers;
mod status;
mod sweep;

pub use self::controller::DatabaseServerController;
