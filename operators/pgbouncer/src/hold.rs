//! Which clients wait because their PostgreSQL server is unreachable or about to be restarted.
//!
//! While logins to a server fail, pgbouncer answers every query with an error; while the database is paused, the client
//! waits. So the pools of an unreachable server are paused at once, and resumed when it answers. The decisions here are
//! pure; the agent watches the servers and sends the commands to pgbouncer.

use std::collections::{BTreeMap, BTreeSet};

use ahoi_api::{HeldServer, HoldState, MaintenanceStatus, Passwords, PoolState, PoolerLogin, Route, TlsMode};
use k8s_openapi::jiff::Timestamp;

use crate::certificates::Tls;
use crate::config::{Poolers, auth_alias};
use crate::console::Database;

/// Maximum number of held servers in a report: a status has to fit into an object.
const LISTED: usize = 50;

/// A server with its routes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// How to connect to it.
    pub endpoint: Endpoint,
    /// Its databases in pgbouncer, the one for auth_query included, and whether their clients wait in any case.
    pub databases: BTreeMap<String, bool>,
}

/// How to connect to a server.
#[derive(Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Name of the DatabaseServer.
    pub server: String,
    /// Host of the server.
    pub host: String,
    /// Port of the server.
    pub port: u16,
    /// Database to connect to.
    pub database: String,
    /// The login of pgbouncer. Without it a probe shows only whether the server is reachable.
    pub login: Option<PoolerLogin>,
    /// TLS mode.
    pub tls: TlsMode,
    /// Authorities (PEM) to verify the server's certificate with, if the mode verifies it.
    pub authorities: Option<String>,
}

impl std::fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Without the login.
        write!(f, "{} at {}:{}", self.server, self.host, self.port)
    }
}

/// What the last probe of a server showed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerState {
    /// It answers, even if it refuses the login.
    Answers {
        /// Start time as the server reports it; none where it refuses the login of pgbouncer.
        started: Option<String>,
    },
    /// It does not answer, or is starting or stopping.
    Unreachable,
}

/// Why the clients of a server wait.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hold {
    /// It is unreachable.
    Unreachable,
    /// It is about to be restarted.
    Maintenance {
        /// Value of spec.maintenance.request.
        request: String,
    },
}

/// The servers of these routes, by the name of their auth_query database in pgbouncer.
#[must_use]
pub fn servers(
    routes: &BTreeMap<String, Route>,
    leaving: &BTreeSet<&str>,
    poolers: &Poolers,
    tls: &Tls,
) -> BTreeMap<String, Server> {
    let mut servers: BTreeMap<String, Server> = BTreeMap::new();
    for (key, route) in routes {
        let alias = auth_alias(route);
        // With passwords from the auth_file there is no auth_query database to pause.
        let looking_up = (route.passwords == Passwords::Lookup).then(|| (alias.clone(), false));
        let Some(endpoint) = endpoint(route, poolers, tls) else { continue };
        let server =
            servers.entry(alias).or_insert_with(|| Server { endpoint, databases: looking_up.into_iter().collect() });
        server.databases.insert(route.database.clone(), waits(route, leaving.contains(key.as_str())));
    }
    servers
}

/// How to connect to the server of a route; none while the login that the route needs is unknown.
#[must_use]
pub fn endpoint(route: &Route, poolers: &Poolers, tls: &Tls) -> Option<Endpoint> {
    let login = match route.passwords {
        Passwords::File => None,
        Passwords::Lookup => Some(poolers.get(&route.server)?.clone()),
    };
    Some(Endpoint {
        server: route.server.clone(),
        host: route.host.clone(),
        port: u16::try_from(route.port).ok()?,
        database: route.auth_database.clone(),
        login,
        tls: tls.server,
        authorities: tls.server_authorities.clone(),
    })
}

/// Whether the clients of a route wait whatever the state of its server.
#[must_use]
pub fn waits(route: &Route, leaving: bool) -> bool {
    match route.state {
        PoolState::Active => false,
        PoolState::Paused => true,
        // Connected clients continue, unless the route is removed: then they must not begin new transactions.
        PoolState::Disabled => leaving,
    }
}

/// Whether the clients of a server wait `now`, and why. An agent relies on its own probes where it can: the controller that
/// began a maintenance may not run at its end.
#[must_use]
pub fn hold(state: Option<&ServerState>, maintenance: Option<&MaintenanceStatus>, now: Timestamp) -> Option<Hold> {
    if let Some(maintenance) = maintenance.filter(|maintenance| is_underway(state, maintenance, now)) {
        return Some(Hold::Maintenance { request: maintenance.request.clone() });
    }
    (state == Some(&ServerState::Unreachable)).then_some(Hold::Unreachable)
}

fn is_underway(state: Option<&ServerState>, maintenance: &MaintenanceStatus, now: Timestamp) -> bool {
    let restarted = match state {
        Some(ServerState::Answers { started: Some(started) }) => *started != maintenance.server_started,
        _ => false,
    };
    maintenance.state.is_underway() && now < maintenance.until.0 && !restarted
}

/// The report on held servers, given the databases as pgbouncer shows them. A server without routes here is Quiet: this
/// process sends nothing to it.
#[must_use]
pub fn report<'a>(
    held: impl IntoIterator<Item = (&'a str, &'a Hold, Vec<&'a String>)>,
    databases: &BTreeMap<String, Database>,
) -> Vec<HeldServer> {
    let mut report: BTreeMap<&str, HeldServer> = BTreeMap::new();
    for (server, hold, names) in held {
        let quiet = |name: &&String| databases.get(*name).is_none_or(|is| is.paused && is.connections == 0);
        let (state, request) = match hold {
            Hold::Unreachable => (HoldState::Unreachable, None),
            Hold::Maintenance { request } if names.iter().all(quiet) => (HoldState::Quiet, Some(request.clone())),
            Hold::Maintenance { request } => (HoldState::Pausing, Some(request.clone())),
        };
        let entry = HeldServer { server: server.to_owned(), state, request };
        // If a server has two endpoints, the one that is less quiet counts.
        report.entry(server).and_modify(|before| *before = before.clone().min(entry.clone())).or_insert(entry);
    }
    report.into_values().take(LISTED).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{poolers, route};
    use ahoi_api::MaintenanceState;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn maintenance(state: MaintenanceState) -> MaintenanceStatus {
        MaintenanceStatus {
            request: "now".into(),
            state,
            until: Time(at(100)),
            server_started: "before".into(),
            direct_sessions: None,
        }
    }

    fn started(when: &str) -> ServerState {
        ServerState::Answers { started: Some(when.into()) }
    }

    #[test]
    fn an_unreachable_server_is_held() {
        assert_eq!(hold(Some(&ServerState::Unreachable), None, at(0)), Some(Hold::Unreachable));
        assert_eq!(hold(None, None, at(0)), None, "it was not probed yet");
        assert_eq!(hold(Some(&started("before")), None, at(0)), None);
        assert_eq!(hold(Some(&ServerState::Answers { started: None }), None, at(0)), None, "a refusal is an answer");
    }

    #[test]
    fn a_maintenance_holds_until_it_is_over() {
        let request = Some(Hold::Maintenance { request: "now".into() });
        for state in [MaintenanceState::Pausing, MaintenanceState::ReadyToRestart] {
            let underway = maintenance(state);
            for state in [None, Some(&started("before")), Some(&ServerState::Unreachable)] {
                assert_eq!(hold(state, Some(&underway), at(99)), request);
            }
            assert_eq!(hold(Some(&started("later")), Some(&underway), at(99)), None, "it was restarted");
            assert_eq!(hold(None, Some(&underway), at(100)), None, "its time is over");
            assert_eq!(hold(Some(&ServerState::Unreachable), Some(&underway), at(100)), Some(Hold::Unreachable));
        }
        for state in [MaintenanceState::Done, MaintenanceState::TimedOut] {
            assert_eq!(hold(None, Some(&maintenance(state)), at(0)), None);
        }
    }

    #[test]
    fn every_database_of_a_server_is_held_with_its_lookups() {
        let elsewhere = Route { server: "pg-eu-2".into(), ..route("b") };
        let paused = Route { state: PoolState::Paused, ..route("c") };
        let going = Route { state: PoolState::Disabled, ..route("d") };
        let routes = [("a", route("a")), ("b", elsewhere), ("c", paused), ("d", going), ("e", route("e"))];
        let routes: BTreeMap<_, _> = routes.into_iter().map(|(key, route)| (key.to_owned(), route)).collect();
        let mut poolers = poolers();
        poolers.insert("pg-eu-2".to_owned(), poolers["pg-eu-1"].clone());
        let servers = servers(&routes, &["d"].into(), &poolers, &Tls::default());
        let first = &servers[&auth_alias(&route("a"))];
        let wait: Vec<_> = first.databases.iter().map(|(name, waits)| (name.as_str(), *waits)).collect();
        let alias = auth_alias(&route("a"));
        assert_eq!(wait, [(alias.as_str(), false), ("a", false), ("c", true), ("d", true), ("e", false)]);
        assert_eq!(servers.len(), 2);
        assert_eq!(format!("{:?}", first.endpoint), "pg-eu-1 at pg-eu-1.databases.svc:5432");
    }

    #[test]
    fn a_server_without_connections_is_quiet() {
        let unreachable = Hold::Unreachable;
        let planned = Hold::Maintenance { request: "now".into() };
        let (idle, busy) = ("idle".to_owned(), "busy".to_owned());
        let databases = [
            (idle.clone(), Database { paused: true, ..Database::default() }),
            (busy.clone(), Database { paused: true, connections: 1, ..Database::default() }),
        ]
        .into();
        let entry = |server: &str, state, request: Option<&str>| HeldServer {
            server: server.into(),
            state,
            request: request.map(Into::into),
        };
        let report = report(
            [
                ("c", &planned, vec![&idle]),
                ("b", &planned, vec![&idle, &busy]),
                ("b", &planned, vec![&idle]),
                ("d", &planned, vec![]),
                ("a", &unreachable, vec![&busy]),
            ],
            &databases,
        );
        assert_eq!(
            report,
            [
                entry("a", HoldState::Unreachable, None),
                entry("b", HoldState::Pausing, Some("now")),
                entry("c", HoldState::Quiet, Some("now")),
                entry("d", HoldState::Quiet, Some("now")),
            ]
        );
    }
}
