//! Whose clients wait because their server is away or is about to be restarted.
//!
//! pgbouncer answers every query with an error while logins at a server fail, but not while the database is paused: then
//! the client waits. So the pools of a server that is away are paused at once, and resumed when it answers. What is decided
//! here is pure; the agent watches the servers and tells pgbouncer.

use std::collections::{BTreeMap, BTreeSet};

use ahoi_api::{HeldServer, HoldState, MaintenanceStatus, Passwords, PoolState, PoolerLogin, Route, TlsMode};
use k8s_openapi::jiff::Timestamp;

use crate::certificates::Tls;
use crate::config::{Poolers, auth_alias};
use crate::console::Database;

/// More held servers than this are not listed: a status has to fit into an object.
const LISTED: usize = 50;

/// A server as routes describe it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// How it is reached.
    pub way: Way,
    /// What pgbouncer has of it, the one for looking up passwords included, and whether its clients wait anyway.
    pub databases: BTreeMap<String, bool>,
}

/// How a server is reached.
#[derive(Clone, PartialEq, Eq)]
pub struct Way {
    /// Name of the DatabaseServer.
    pub server: String,
    /// Its host.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// A database that the login may use.
    pub database: String,
    /// The pooler's login. Without one the server can only be asked whether it is there.
    pub login: Option<PoolerLogin>,
    /// Whether by TLS.
    pub tls: TlsMode,
    /// The authorities (PEM) that its certificate has to come from, if it is looked at.
    pub authorities: Option<String>,
}

impl std::fmt::Debug for Way {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Without the login.
        write!(f, "{} at {}:{}", self.server, self.host, self.port)
    }
}

/// What is known of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// It answers, whatever its answer.
    Answers {
        /// When it was started, as it says itself; unknown where it refuses the pooler's login.
        started: Option<String>,
    },
    /// It cannot be reached, or is starting or stopping.
    Away,
}

/// Why the clients of a server wait.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hold {
    /// It cannot be reached.
    Unreachable,
    /// It is about to be restarted.
    Maintenance {
        /// The request.
        request: String,
    },
}

/// The servers that these routes lead to, by what pgbouncer calls the database for looking up passwords.
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
        // Where verifiers are known beforehand nothing is looked up, and so there is nothing to pause for that.
        let looking_up = (route.passwords == Passwords::Lookup).then(|| (alias.clone(), false));
        let Some(way) = way(route, poolers, tls) else { continue };
        let server =
            servers.entry(alias).or_insert_with(|| Server { way, databases: looking_up.into_iter().collect() });
        server.databases.insert(route.database.clone(), waits(route, leaving.contains(key.as_str())));
    }
    servers
}

/// How the server of a route is reached; not while the pooler's login that the route needs is missing.
#[must_use]
pub fn way(route: &Route, poolers: &Poolers, tls: &Tls) -> Option<Way> {
    let login = match route.passwords {
        Passwords::File => None,
        Passwords::Lookup => Some(poolers.get(&route.server)?.clone()),
    };
    Some(Way {
        server: route.server.clone(),
        host: route.host.clone(),
        port: u16::try_from(route.port).ok()?,
        database: route.auth_database.clone(),
        login,
        tls: tls.server,
        authorities: tls.server_authorities.clone(),
    })
}

/// Whether the clients of a route are to wait whatever its server does.
#[must_use]
pub fn waits(route: &Route, leaving: bool) -> bool {
    match route.state {
        PoolState::Active => false,
        PoolState::Paused => true,
        // Clients that are connected go on, unless the route goes: then they must not begin anything new.
        PoolState::Disabled => leaving,
    }
}

/// Whether the clients of a server wait `now`, and why. An agent goes by what it hears itself where it can: whoever began a
/// maintenance may not be there at its end.
#[must_use]
pub fn hold(heard: Option<&Heard>, maintenance: Option<&MaintenanceStatus>, now: Timestamp) -> Option<Hold> {
    if let Some(maintenance) = maintenance.filter(|maintenance| goes_on(heard, maintenance, now)) {
        return Some(Hold::Maintenance { request: maintenance.request.clone() });
    }
    (heard == Some(&Heard::Away)).then_some(Hold::Unreachable)
}

fn goes_on(heard: Option<&Heard>, maintenance: &MaintenanceStatus, now: Timestamp) -> bool {
    let restarted = match heard {
        Some(Heard::Answers { started: Some(started) }) => *started != maintenance.server_started,
        _ => false,
    };
    maintenance.state.is_underway() && now < maintenance.until.0 && !restarted
}

/// What is said of held servers, given the databases as pgbouncer has them. A server without routes here is one, too:
/// nothing can go to it from here.
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
        // Of two ways to one server the one that is less quiet counts.
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

    fn started(when: &str) -> Heard {
        Heard::Answers { started: Some(when.into()) }
    }

    #[test]
    fn a_server_that_is_away_is_held() {
        assert_eq!(hold(Some(&Heard::Away), None, at(0)), Some(Hold::Unreachable));
        assert_eq!(hold(None, None, at(0)), None, "nothing is known yet");
        assert_eq!(hold(Some(&started("before")), None, at(0)), None);
        assert_eq!(hold(Some(&Heard::Answers { started: None }), None, at(0)), None, "a refusal is an answer");
    }

    #[test]
    fn a_maintenance_holds_until_it_is_over() {
        let request = Some(Hold::Maintenance { request: "now".into() });
        for state in [MaintenanceState::Pausing, MaintenanceState::ReadyToRestart] {
            let underway = maintenance(state);
            for heard in [None, Some(&started("before")), Some(&Heard::Away)] {
                assert_eq!(hold(heard, Some(&underway), at(99)), request);
            }
            assert_eq!(hold(Some(&started("later")), Some(&underway), at(99)), None, "it was restarted");
            assert_eq!(hold(None, Some(&underway), at(100)), None, "nobody is left to end it");
            assert_eq!(hold(Some(&Heard::Away), Some(&underway), at(100)), Some(Hold::Unreachable));
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
        assert_eq!(format!("{:?}", first.way), "pg-eu-1 at pg-eu-1.databases.svc:5432");
    }

    #[test]
    fn quiet_is_who_has_no_connection_left() {
        let away = Hold::Unreachable;
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
                ("a", &away, vec![&busy]),
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
