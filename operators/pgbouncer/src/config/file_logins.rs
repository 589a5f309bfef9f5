//! Logins that pgbouncer has read from its auth_file.
//!
//! pgbouncer runs no auth_query for a name that it has read from its auth_file, until it is restarted. If such a login is needed on a
//! server that allows lookups, and no Secret has its verifier, the agent looks it up and writes it into the file.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use ahoi_api::{Passwords, Route};

use super::render::auth_alias;
use super::verifiers::{Verifiers, is_verifier};

/// What the servers of one pgbouncer process answered about logins of its auth_file.
#[derive(Clone, Default)]
pub struct FileLogins {
    /// Every login that this process has read from its auth_file.
    read: BTreeSet<String>,
    /// The last answer of each server by its alias: a verifier for each login, or none.
    answers: BTreeMap<String, BTreeMap<String, Option<String>>>,
    /// Why the last lookup failed, by alias of the server.
    errors: BTreeMap<String, String>,
}

/// Logins that have to be looked up on one server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lookup {
    /// A route to the server.
    pub route: Route,
    /// Names of the logins.
    pub logins: BTreeSet<String>,
}

impl fmt::Debug for FileLogins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without the verifiers.
        write!(f, "FileLogins({})", self.read.len())
    }
}

impl FileLogins {
    /// Records the logins that pgbouncer reads with these routes.
    pub fn record<'a>(&mut self, routes: impl IntoIterator<Item = &'a Route>, verifiers: &Verifiers) {
        let logins = routes.into_iter().flat_map(|route| verifiers.of(&route.database));
        self.read.extend(logins.map(|(login, _)| login.clone()));
    }

    /// Logins that pgbouncer will not look up for these routes and whose verifiers are in no Secret, by alias of the server.
    pub fn needed<'a>(
        &self,
        routes: impl IntoIterator<Item = &'a Route>,
        verifiers: &Verifiers,
    ) -> BTreeMap<String, Lookup> {
        let mut lookups: BTreeMap<String, Lookup> = BTreeMap::new();
        for route in routes {
            for login in self.unknown(route, verifiers) {
                let lookup = lookups.entry(auth_alias(route));
                let lookup = lookup.or_insert_with(|| Lookup { route: route.clone(), logins: BTreeSet::new() });
                lookup.logins.insert(login.clone());
            }
        }
        lookups
    }

    /// Whether all of these logins have been looked up once, successfully or not.
    #[must_use]
    pub fn has_tried(&self, needed: &BTreeMap<String, Lookup>) -> bool {
        let has_answer =
            |alias, login| self.answers.get(alias).is_some_and(|answers: &BTreeMap<_, _>| answers.contains_key(login));
        let mut all = needed.iter().flat_map(|(alias, lookup)| lookup.logins.iter().map(move |login| (alias, login)));
        all.all(|(alias, login)| has_answer(alias, login) || self.errors.contains_key(alias))
    }

    /// Takes over what a server answered about all logins that are needed there. After a failed lookup the last answers stay.
    pub fn update(&mut self, alias: &str, answer: Result<BTreeMap<String, String>, String>, logins: &BTreeSet<String>) {
        match answer {
            Ok(found) => {
                let usable = |login| found.get(login).filter(|verifier| is_verifier(verifier)).cloned();
                let answers = logins.iter().map(|login| (login.clone(), usable(login))).collect();
                self.answers.insert(alias.to_owned(), answers);
                self.errors.remove(alias);
            }
            Err(error) => {
                self.errors.insert(alias.to_owned(), error);
            }
        }
    }

    /// Drops the answers of servers where nothing is needed any more.
    pub fn retain(&mut self, needed: &BTreeMap<String, Lookup>) {
        self.answers.retain(|alias, _| needed.contains_key(alias));
        self.errors.retain(|alias, _| needed.contains_key(alias));
    }

    /// The verifiers that were looked up.
    pub fn found(&self) -> impl Iterator<Item = (&String, &String)> {
        let answers = self.answers.values().flatten();
        answers.filter_map(|(login, verifier)| Some((login, verifier.as_ref()?)))
    }

    /// Whether clients can log in through the route, as far as the auth_file is concerned.
    ///
    /// # Errors
    /// While one of its logins has not been looked up.
    pub fn check(&self, route: &Route, verifiers: &Verifiers) -> Result<(), String> {
        let alias = auth_alias(route);
        let answers = self.answers.get(&alias);
        let mut unknown = self.unknown(route, verifiers);
        let Some(login) = unknown.find(|login| answers.is_none_or(|answers| !answers.contains_key(*login))) else {
            return Ok(());
        };
        let error = self.errors.get(&alias).map_or("it has not been tried yet", String::as_str);
        Err(format!("cannot look up the login {login} on the DatabaseServer {}: {error}", route.server))
    }

    fn unknown<'a>(&'a self, route: &'a Route, verifiers: &'a Verifiers) -> impl Iterator<Item = &'a String> {
        let prefix = format!("{}_", route.database);
        let read = self.read.range(prefix.clone()..).take_while(move |login| login.starts_with(&prefix));
        let looks_up = route.passwords == Passwords::Lookup;
        read.filter(move |login| looks_up && !verifiers.has(login))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{AUTH_FILE, Known, Settings, plan, render};
    use crate::fixtures::{VERIFIER, file_route, pool, poolers, route};

    const RENEWED: &str = "SCRAM-SHA-256$4096:c2FsdA==$a2V5:a2V5";

    fn found(login: &str, verifier: &str) -> BTreeMap<String, String> {
        [(login.to_owned(), verifier.to_owned())].into()
    }

    /// What pgbouncer reads for these routes.
    fn users(known: &Known, route: &Route) -> String {
        let mut settings = Settings { verifiers: known.verifiers.clone(), ..Settings::default() };
        settings.verifiers.extend(known.file_logins.found());
        let files = render([route], &known.poolers, &settings).files;
        files.into_iter().find(|(name, _)| *name == AUTH_FILE).map(|(_, text)| text).unwrap()
    }

    /// A customer with passwords from a file is deleted, its server changes to Lookup, and the customer comes back.
    #[test]
    fn a_login_that_pgbouncer_will_not_look_up_is_looked_up_by_the_agent() {
        let mut known = Known { poolers: poolers(), ..Known::default() };
        known.verifiers.update([("c_a_a".to_owned(), VERIFIER.to_owned())], []);
        known.file_logins.record([&file_route("c_a")], &known.verifiers);
        known.verifiers.update([], []);

        let (back, other) = (pool("c_a", 2), pool("c_b", 3));
        let routes = [route("c_a"), route("c_b")];
        let needed = known.file_logins.needed(&routes, &known.verifiers);
        let (alias, lookup) = needed.iter().next().unwrap();
        assert_eq!((needed.len(), lookup.logins.len()), (1, 1));
        assert!(lookup.logins.contains("c_a_a") && !known.file_logins.has_tried(&needed));
        let refused = |known: &Known| plan(&[back.clone(), other.clone()], known).unwrap().refused;
        assert_eq!(
            refused(&known)[0].reason,
            "cannot look up the login c_a_a on the DatabaseServer pg-eu-1: it has not been tried yet"
        );

        known.file_logins.update(alias, Err("connection refused".into()), &lookup.logins);
        assert!(refused(&known)[0].reason.ends_with(": connection refused") && known.file_logins.has_tried(&needed));
        known.file_logins.update(alias, Ok(found("c_a_a", VERIFIER)), &lookup.logins);
        assert_eq!(refused(&known), []);
        assert!(users(&known, &routes[0]).contains(&format!("\"c_a_a\" \"{VERIFIER}\"\n")));

        known.file_logins.update(alias, Err("connection refused".into()), &lookup.logins);
        assert!(users(&known, &routes[0]).contains(VERIFIER), "the last answer stays");
        known.file_logins.update(alias, Ok(found("c_a_a", RENEWED)), &lookup.logins);
        assert!(users(&known, &routes[0]).contains(RENEWED), "a rotation is followed");
    }

    #[test]
    fn a_login_that_the_server_does_not_have_blocks_nothing() {
        let mut known = Known { poolers: poolers(), ..Known::default() };
        known.verifiers.update(["c_a_a", "c_a_b"].map(|login| (login.to_owned(), VERIFIER.to_owned())), []);
        known.file_logins.record([&file_route("c_a")], &known.verifiers);
        known.verifiers.update([], []);
        let needed = known.file_logins.needed([&route("c_a")], &known.verifiers);
        let (alias, lookup) = needed.iter().next().unwrap();
        known.file_logins.update(alias, Ok(found("c_a_a", "md5abc")), &lookup.logins);
        assert!(known.file_logins.has_tried(&needed));
        assert_eq!(known.file_logins.check(&route("c_a"), &known.verifiers), Ok(()));
        assert_eq!(known.file_logins.found().count(), 0, "only verifiers reach the file");
    }

    #[test]
    fn nothing_is_looked_up_that_pgbouncer_or_a_secret_knows() {
        let mut known = Known::default();
        known.verifiers.update([("c_a_a".to_owned(), VERIFIER.to_owned())], []);
        let needed = |known: &Known, route: Route| known.file_logins.needed([&route], &known.verifiers).len();
        known.file_logins.record([&file_route("c_a")], &known.verifiers);
        assert_eq!(needed(&known, route("c_a")), 0, "its verifier is in a Secret");
        known.verifiers.update([], []);
        assert_eq!(needed(&known, route("c_b")), 0, "pgbouncer looks it up");
        assert_eq!(needed(&known, file_route("c_a")), 0, "nothing can be looked up");
        assert_eq!(needed(&known, route("c_a")), 1);
        known.file_logins = FileLogins::default();
        assert_eq!(needed(&known, route("c_a")), 0, "pgbouncer was restarted");
        assert_eq!(format!("{:?}", known.file_logins), "FileLogins(0)");
    }
}
