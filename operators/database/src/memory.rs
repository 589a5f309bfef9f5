//! What the controllers remember about a PostgreSQL server from one sweep to the next. Kept in memory only: losing it costs a
//! sweep.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use ahoi_api::{DatabaseServer, KeptDatabase};
use kube::ResourceExt;
use parking_lot::Mutex;

use crate::growth::Growth;
use crate::postgres::corrections::Corrections;
use crate::postgres::ownership::State;
use crate::postgres::server::Postgres;

/// Findings about one server.
#[derive(Debug, Default)]
pub struct Memory {
    /// Whether this process has swept the server.
    pub is_swept: bool,
    /// Number of sweeps.
    pub round: u64,
    /// Number of measurements, of which a sweep has several.
    pub measurements: u64,
    /// When the next measurement is due, and how many there were since the last sweep.
    pub next_measurement: Option<(Instant, u32)>,
    /// The last measured sizes in bytes, by database.
    pub sizes: HashMap<String, i64>,
    /// Rows written since the statistics were reset, as of the last measurement, by database.
    pub written: HashMap<String, i64>,
    /// Bytes of temporary files, by database; empty if the admin role may not list them.
    pub temporary: HashMap<String, i64>,
    /// Whether the admin role may list temporary files and the WAL.
    pub lists_files: bool,
    /// Growth of the databases whose storage is used up.
    pub growth: HashMap<String, Growth>,
    /// Active databases without an object, as of the last sweep.
    pub suspects: HashSet<String>,
    /// [`Ownership::object`](crate::postgres::ownership::Ownership::object) of each database that can be adopted and has no
    /// object. They count for placement; while the server is unreachable, an object of the same name waits for it.
    pub unclaimed: HashSet<String>,
    /// Names of these databases.
    pub unclaimed_databases: HashSet<String>,
    /// Databases without an object, as the status lists them.
    pub kept: Kept,
    /// Databases whose removal has begun and that no object and no pending removal refers to, as of the last sweep.
    pub unfinished: HashSet<String>,
    /// When to retry a removal that the server refused, by the uid of its Database.
    pub removals: HashMap<String, Retry>,
    /// What the catalogs do not show.
    pub corrections: Corrections,
    /// Whether the poolers' former login had no session at the last sweep.
    pub former_is_unused: bool,
    /// Pooler logins of deleted DatabaseServers that had no session at the last sweep.
    pub unused_poolers: HashSet<String>,
    /// Whether an event has reported that too many databases have no object.
    pub alarmed: bool,
}

/// What the ownership marker of a kept database says: its state, and the cluster if that is another one.
pub type Marker = (State, Option<String>);

/// The kept databases that the last sweep found, and the list made from them.
#[derive(Debug, Default)]
pub struct Kept {
    /// By name.
    pub found: BTreeMap<String, Marker>,
    /// For the status of the DatabaseServer.
    pub list: Vec<KeptDatabase>,
}

/// When to retry what the server refused.
#[derive(Clone, Copy, Debug)]
pub struct Retry {
    /// Not before.
    pub next: Instant,
    /// Number of refusals in a row.
    pub refused: u32,
}

/// A server that is remembered. Another address or object is another server.
struct Known {
    uid: Option<String>,
    host: String,
    port: i32,
    memory: Arc<Mutex<Memory>>,
}

/// What is remembered about each server, by the name of its DatabaseServer.
#[derive(Default)]
pub struct Memories(Mutex<HashMap<String, Known>>);

impl Memories {
    /// What is remembered about this server, whichever login is used.
    pub fn of(&self, server: &DatabaseServer) -> Arc<Mutex<Memory>> {
        let (uid, spec) = (server.uid(), &server.spec);
        let mut servers = self.0.lock();
        let known = servers.get(&server.name_any());
        let known = known.filter(|known| known.uid == uid && known.host == spec.host && known.port == spec.port);
        if let Some(known) = known {
            return known.memory.clone();
        }
        let memory = Arc::default();
        let (host, port) = (spec.host.clone(), spec.port);
        servers.insert(server.name_any(), Known { uid, host, port, memory: Arc::clone(&memory) });
        memory
    }

    /// Forgets deleted servers.
    pub fn retain(&self, exists: impl Fn(&str) -> bool) {
        self.0.lock().retain(|name, _| exists(name));
    }
}

/// A PostgreSQL server, and what the controllers remember about it.
#[derive(Clone)]
pub struct Instance {
    /// Name of the DatabaseServer.
    pub name: String,
    /// The connections.
    pub postgres: Arc<Postgres>,
    /// What is remembered.
    pub memory: Arc<Mutex<Memory>>,
}
