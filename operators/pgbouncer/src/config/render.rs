//! pgbouncer's files.
//!
//! Opening `[pgbouncer]` resets every setting to its default, so the other sections are included first and `[pgbouncer]`
//! comes once and last. Its last line is the marker: `SHOW CONFIG` shows that `syslog_ident` only if pgbouncer has read
//! everything before it. (Nothing is logged to syslog.)

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::{Path, PathBuf};

use ahoi_api::{Passwords, PoolMode, PoolerLogin, Route};
use sha2::{Digest, Sha256};

use super::{Verifiers, headroom, tls};
use crate::PORT;
use crate::certificates::Tls;

/// Name of the main file.
pub const INI: &str = "pgbouncer.ini";
/// Name of the file with the routes.
pub const DATABASES: &str = "databases.ini";
/// Name of the file with the settings of single logins.
pub const LOGINS: &str = "logins.ini";
/// Name of the file with the other processes of the fleet.
pub const PEERS: &str = "peers.ini";
/// Name of the auth_file: logins for auth_query, and verifiers of logins that pgbouncer does not look up.
pub const AUTH_FILE: &str = "users.txt";

/// Prefix of the names of auth_query databases.
pub(super) const AUTH_PREFIX: &str = "_auth_";

/// Server connections of one process for auth_query.
pub(super) const AUTH_POOL: u8 = 4;

/// Calls the function that the database controller creates, which returns name and verifier of a login. For an unknown login the
/// query returns a verifier that no password matches, always under the same name: without a row pgbouncer closes the connection to
/// the server, and it would keep each name that a client chooses.
const AUTH_QUERY: &str = "SELECT coalesce(found.name, '-'), coalesce(found.verifier, 'SCRAM-SHA-256$4096:\
    AAAAAAAAAAAAAAAAAAAAAA==$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=') \
    FROM (SELECT) AS one LEFT JOIN ahoi.pooler_lookup($1) AS found(name, verifier) ON true";

/// Defaults of Ahoi, which the parameters of the fleet override.
const DEFAULTS: &[(&str, &str)] = &[
    // Accepts clients that all connect at once within a second.
    ("listen_backlog", "1024"),
    ("log_connections", "0"),
    ("log_disconnections", "0"),
    ("log_stats", "0"),
    ("max_prepared_statements", "200"),
    ("server_idle_timeout", "60"),
    ("server_login_retry", "1"),
];

/// The login for auth_query on each server, by name of the DatabaseServer.
pub type Poolers = BTreeMap<String, PoolerLogin>;

/// The settings of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Directory of the files and of the console's socket.
    pub directory: PathBuf,
    /// Port for clients.
    pub port: u16,
    /// Pool mode of routes without one.
    pub pool_mode: PoolMode,
    /// Pool size of routes without one.
    pub default_pool_size: i32,
    /// Maximum number of logged-in clients.
    pub max_client_connections: i32,
    /// Maximum number of unfinished logins beside them.
    pub logins: i32,
    /// Maximum number of clients of routes without one.
    pub default_max_client_connections: i32,
    /// Further settings, validated.
    pub parameters: BTreeMap<String, String>,
    /// TLS settings.
    pub tls: Tls,
    /// Number of this process among its peers; 0 without peers.
    pub peer_id: u32,
    /// The hosts of all processes, the first being that of peer 1. A cancel request may reach any of them.
    pub peers: Vec<String>,
    /// The verifiers of logins that pgbouncer does not look up.
    pub verifiers: Verifiers,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            directory: PathBuf::from("/run/pgbouncer"),
            port: PORT,
            pool_mode: PoolMode::Transaction,
            default_pool_size: 8,
            max_client_connections: 5000,
            logins: 0,
            default_max_client_connections: 1000,
            parameters: BTreeMap::new(),
            tls: Tls::default(),
            peer_id: 0,
            peers: Vec::new(),
            verifiers: Verifiers::default(),
        }
    }
}

impl Settings {
    /// Maximum number of logged-in clients of the route.
    #[must_use]
    pub fn clients_of(&self, route: &Route) -> i32 {
        route.max_client_connections.unwrap_or(self.default_max_client_connections)
    }
}

/// The files to write.
#[derive(Clone, PartialEq, Eq)]
pub struct Files {
    /// Names and contents in the order in which they have to be written: the file that includes the others is last.
    pub files: Vec<(&'static str, String)>,
    /// Value of `syslog_ident`, which proves that pgbouncer has read everything.
    pub marker: String,
    /// The databases that pgbouncer has then, its console included.
    pub databases: BTreeSet<String>,
}

impl std::fmt::Debug for Files {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The contents include passwords.
        f.debug_struct("Files")
            .field("marker", &self.marker)
            .field("databases", &self.databases.len())
            .finish_non_exhaustive()
    }
}

/// Renders the files for these routes, which have to be valid ([`validate`](fn@super::validate)).
#[must_use]
pub fn render<'a>(routes: impl IntoIterator<Item = &'a Route>, poolers: &Poolers, settings: &Settings) -> Files {
    let routes: Vec<&Route> = routes.into_iter().collect();
    let names = routes.iter().map(|route| route.database.clone());
    let names = names.chain(looking_up(&routes).map(auth_alias)).chain(["pgbouncer".to_owned()]);
    let names = names.collect();
    let databases = databases(&routes, poolers, settings);
    let logins = super::timeouts::render(&routes);
    let peers = peers(&settings.peers);
    let users = users(&routes, poolers, &settings.verifiers);
    let body = main(settings);
    let secured = tls::files(&settings.tls);
    let mut digest = Sha256::new();
    for part in [&databases, &logins, &peers, &users, &body] {
        digest.update(part.len().to_be_bytes());
        digest.update(part);
    }
    for (name, content) in &secured {
        digest.update(name);
        digest.update(content.len().to_be_bytes());
        digest.update(content);
    }
    let marker = format!("cfg-{}", hex(&digest.finalize(), 16));
    let ini = format!("{body}syslog_ident = {marker}\n");
    Files {
        files: secured
            .into_iter()
            .chain([(DATABASES, databases), (LOGINS, logins), (PEERS, peers), (AUTH_FILE, users), (INI, ini)])
            .collect(),
        marker,
        databases: names,
    }
}

/// Name of the auth_query database of the route's server. It is a hash of all its properties, so that routes which disagree about
/// a server do not conflict.
#[must_use]
pub fn auth_alias(route: &Route) -> String {
    let server: String = route.server.chars().take(40).map(|c| if c == '-' { '_' } else { c }).collect();
    let what = format!("{}\n{}\n{}\n{}", route.server, route.host, route.port, route.auth_database);
    format!("{AUTH_PREFIX}{server}_{}", hex(&Sha256::digest(what), 4))
}

fn databases(routes: &[&Route], poolers: &Poolers, settings: &Settings) -> String {
    let mut lines = BTreeSet::new();
    for route in routes {
        lines.insert(entry(route, poolers, settings));
    }
    lines.extend(looking_up(routes).map(auth_entry));
    let mut text = String::from("[databases]\n");
    for line in lines {
        text.push_str(&line);
    }
    text
}

fn looking_up<'a>(routes: &[&'a Route]) -> impl Iterator<Item = &'a Route> {
    routes.iter().copied().filter(|route| route.passwords == Passwords::Lookup)
}

fn entry(route: &Route, poolers: &Poolers, settings: &Settings) -> String {
    // Without an auth_user pgbouncer knows only the logins of the auth_file.
    let pooler = poolers.get(&route.server).filter(|_| route.passwords == Passwords::Lookup);
    let auth = pooler.map(|pooler| format!(" auth_dbname={} auth_user={}", auth_alias(route), pooler.name));
    format!(
        "{database} = host={host} port={port} dbname={database}{auth} \
         pool_mode={mode} pool_size={size} max_db_connections={size} max_db_client_connections={clients}\n",
        database = route.database,
        host = route.host,
        port = route.port,
        auth = auth.unwrap_or_default(),
        mode = mode(route.pool_mode),
        size = route.pool_size,
        clients = settings.clients_of(route).saturating_add(headroom::of_one_database(settings.logins)),
    )
}

fn auth_entry(route: &Route) -> String {
    format!(
        "{} = host={} port={} dbname={} pool_mode=transaction pool_size={AUTH_POOL} max_db_connections={AUTH_POOL}\n",
        auth_alias(route),
        route.host,
        route.port,
        route.auth_database,
    )
}

/// The auth_file: quoted, with `"` doubled. pgbouncer checks a client against the verifier, and uses the keys from that exchange to
/// log in to the server.
fn users(routes: &[&Route], poolers: &Poolers, verifiers: &Verifiers) -> String {
    let mut logins: BTreeMap<&str, &String> = looking_up(routes)
        .filter_map(|route| poolers.get(&route.server))
        .map(|pooler| (pooler.name.as_str(), &pooler.password))
        .collect();
    // pgbouncer never looks up a login that it has read from this file: without a line here it refuses the login until it is
    // restarted. So the known verifiers stay when a server changes to `Lookup`.
    for route in routes {
        logins.extend(verifiers.of(&route.database).map(|(login, verifier)| (login.as_str(), verifier)));
    }
    let quoted = |text: &str| format!("\"{}\"", text.replace('"', "\"\""));
    logins.iter().map(|(login, password)| format!("{} {}\n", quoted(login), quoted(password))).collect()
}

fn peers(hosts: &[String]) -> String {
    let mut text = String::from("[peers]\n");
    for (host, id) in hosts.iter().zip(1..) {
        let id: u32 = id;
        let _ = writeln!(text, "{id} = host={host} port={PORT}");
    }
    text
}

fn main(settings: &Settings) -> String {
    let directory = settings.directory.display();
    let file = |name: &str| Path::new(&settings.directory).join(name).display().to_string();
    let mut set: BTreeMap<&str, String> = DEFAULTS.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
    set.extend(settings.parameters.iter().map(|(name, value)| (name.as_str(), value.clone())));
    set.extend([
        ("auth_file", file(AUTH_FILE)),
        ("auth_query", AUTH_QUERY.to_owned()),
        ("auth_type", "scram-sha-256".to_owned()),
        ("default_pool_size", settings.default_pool_size.to_string()),
        ("ignore_startup_parameters", "extra_float_digits".to_owned()),
        ("listen_addr", "*".to_owned()),
        ("listen_port", settings.port.to_string()),
        ("max_client_conn", settings.max_client_connections.saturating_add(settings.logins).to_string()),
        ("peer_id", settings.peer_id.to_string()),
        ("pool_mode", mode(settings.pool_mode).to_owned()),
        ("unix_socket_dir", directory.to_string()),
        ("unix_socket_mode", "0700".to_owned()),
    ]);
    set.extend(tls::settings(&settings.tls, &settings.directory));
    let mut text =
        format!("%include {}\n%include {}\n%include {}\n[pgbouncer]\n", file(DATABASES), file(LOGINS), file(PEERS));
    for (name, value) in set {
        let _ = writeln!(text, "{name} = {value}");
    }
    text
}

fn mode(mode: PoolMode) -> &'static str {
    match mode {
        PoolMode::Transaction => "transaction",
        PoolMode::Session => "session",
        PoolMode::Statement => "statement",
    }
}

fn hex(bytes: &[u8], count: usize) -> String {
    bytes.iter().take(count).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::validate;
    use crate::fixtures::{VERIFIER, file_route, poolers, route};
    use proptest::prelude::*;

    #[test]
    fn the_files() {
        let mut second = route("c_b");
        second.pool_mode = PoolMode::Session;
        second.pool_size = 3;
        second.max_client_connections = Some(400);
        let mut settings = Settings {
            parameters: BTreeMap::from([("query_wait_timeout".to_owned(), "30".to_owned())]),
            peer_id: 2,
            peers: vec!["global-0.global-peers.ahoi-system.svc".into(), "global-1.global-peers.ahoi-system.svc".into()],
            ..Settings::default()
        };
        let third = file_route("c_c");
        settings.verifiers.update(["c_c_a", "c_d_a"].map(|login| (login.to_owned(), VERIFIER.to_owned())), []);
        let files = render([&route("c_a"), &second, &third], &poolers(), &settings);
        let text: String = files.files.iter().map(|(name, content)| format!("--- {name}\n{content}")).collect();
        insta::assert_snapshot!(text);
        let names: Vec<&String> = files.databases.iter().collect();
        assert_eq!(names, ["_auth_pg_eu_1_2fab966f", "c_a", "c_b", "c_c", "pgbouncer"]);
    }

    #[test]
    fn unfinished_logins_have_a_capacity_of_their_own() {
        let settings = Settings { logins: 8000, ..Settings::default() };
        let files = render([&route("c_a")], &poolers(), &settings).files;
        let text = files.iter().map(|(_, content)| content.as_str()).collect::<String>();
        assert!(
            text.contains(" max_db_client_connections=7000\n") && text.contains("\nmax_client_conn = 13000\n"),
            "{text}"
        );
    }

    #[test]
    fn known_verifiers_stay_in_the_file_when_the_server_changes_to_lookup() {
        let mut settings = Settings::default();
        settings.verifiers.update([("c_a_a".to_owned(), VERIFIER.to_owned())], []);
        let users = |route: Route| {
            let files = render([&route], &poolers(), &settings).files;
            files.into_iter().find(|(name, _)| *name == AUTH_FILE).map(|(_, text)| text).unwrap()
        };
        let line = format!("\"c_a_a\" \"{VERIFIER}\"\n");
        assert_eq!(users(file_route("c_a")), line);
        assert!(users(route("c_a")).contains(&line) && users(route("c_a")).contains("ahoi_pooler_1_a"));
        assert!(!users(route("c_b")).contains("c_"), "its logins are looked up");
    }

    #[test]
    fn debug_output_contains_no_password() {
        let files = render([&route("c_a")], &poolers(), &Settings::default());
        assert!(!format!("{files:?}").contains("cret"));
    }

    #[test]
    fn the_marker_changes_with_every_input() {
        let marker = |route: &Route, poolers: &Poolers, settings: &Settings| render([route], poolers, settings).marker;
        let (route, poolers, settings) = (route("c_a"), poolers(), Settings::default());
        let base = marker(&route, &poolers, &settings);
        assert_eq!(base, marker(&route, &poolers, &settings));
        assert_ne!(base, marker(&Route { pool_size: 9, ..route.clone() }, &poolers, &settings));
        let other = |login| Poolers::from([("pg-eu-1".to_owned(), login)]);
        let login = &poolers["pg-eu-1"];
        assert_ne!(base, marker(&route, &other(PoolerLogin { name: "b".into(), ..login.clone() }), &settings));
        assert_ne!(base, marker(&route, &other(PoolerLogin { password: "b".into(), ..login.clone() }), &settings));
        assert_ne!(base, marker(&route, &poolers, &Settings { peer_id: 1, ..settings.clone() }));
    }

    /// Reads as pgbouncer's own parser does: sections, keys, `%include` aside.
    fn sections(text: &str) -> Vec<(String, Vec<String>)> {
        let mut sections: Vec<(String, Vec<String>)> = Vec::new();
        for line in text.lines() {
            if let Some(name) = line.strip_prefix('[') {
                sections.push((name.trim_end_matches(']').to_owned(), Vec::new()));
            } else if let (Some((_, keys)), Some((key, _))) = (sections.last_mut(), line.split_once(" = ")) {
                keys.push(key.to_owned());
            }
        }
        sections
    }

    proptest! {
        /// For all valid routes, the files have one entry for each and one for each server, nothing else, and
        /// `[pgbouncer]` comes once with the marker at its end.
        #[test]
        fn every_route_and_server_has_one_entry(
            names in prop::collection::btree_set("[a-z0-9_]{1,63}", 0..8),
            hosts in prop::collection::vec("\\PC{1,12}|[a-z0-9.-]{1,12}", 8),
            password in "\\PC{1,20}",
        ) {
            let routes: Vec<Route> = names
                .into_iter()
                .zip(hosts)
                .map(|(database, host)| Route { host, ..route(&database) })
                .filter(|route| validate(route).is_ok())
                .collect();
            let login = PoolerLogin { name: "ahoi_pooler_1_a".into(), password };
            let files = render(&routes, &[("pg-eu-1".to_owned(), login)].into(), &Settings::default());
            let text = |name| files.files.iter().find(|(file, _)| *file == name).map(|(_, text)| text.clone()).unwrap();
            let found = sections(&text(DATABASES));
            prop_assert_eq!(found.len(), 1);
            let aliases: BTreeSet<String> = routes.iter().map(auth_alias).collect();
            let expected: BTreeSet<String> = routes.iter().map(|route| route.database.clone()).chain(aliases).collect();
            prop_assert_eq!(found[0].1.len(), expected.len());
            prop_assert_eq!(found[0].1.iter().cloned().collect::<BTreeSet<_>>(), expected);
            prop_assert_eq!(files.databases.len(), found[0].1.len() + 1);
            let ini = text(INI);
            prop_assert_eq!(sections(&ini).len(), 1);
            let last = format!("syslog_ident = {}\n", files.marker);
            prop_assert!(ini.ends_with(&last));
            prop_assert_eq!(text(AUTH_FILE).lines().count(), usize::from(!routes.is_empty()));
        }
    }
}
