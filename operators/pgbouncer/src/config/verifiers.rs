//! Verifiers of logins that cannot be looked up on their server.

use std::collections::{BTreeMap, BTreeSet};

use ahoi_api::{Passwords, Route};

/// SCRAM verifiers by login.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Verifiers(BTreeMap<String, String>);

impl std::fmt::Debug for Verifiers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Verifiers({})", self.0.len())
    }
}

impl Verifiers {
    /// Replaces the verifiers by those in the Secrets. If none is left for the database of a loaded route, they may have been
    /// deleted by mistake, and stay: a login that was removed from the server is refused there.
    pub fn update<'a>(
        &mut self,
        present: impl IntoIterator<Item = (String, String)>,
        loaded: impl IntoIterator<Item = &'a Route>,
    ) {
        let present = present.into_iter().filter(|(login, verifier)| is_login(login) && is_verifier(verifier));
        let before = std::mem::replace(self, Verifiers(present.collect()));
        let databases: BTreeSet<&str> = loaded
            .into_iter()
            .filter(|route| self.of(&route.database).next().is_none())
            .map(|route| route.database.as_str())
            .collect();
        for database in databases {
            let kept: Vec<_> = before.of(database).map(|(login, verifier)| (login.clone(), verifier.clone())).collect();
            self.0.extend(kept);
        }
    }

    /// The verifiers of the logins of one database.
    pub fn of<'a>(&'a self, database: &str) -> impl Iterator<Item = (&'a String, &'a String)> {
        let prefix = format!("{database}_");
        let from = self.0.range(prefix.clone()..);
        from.take_while(move |(login, _)| login.starts_with(&prefix))
    }

    /// Whether the verifier of a login is known.
    #[must_use]
    pub fn has(&self, login: &str) -> bool {
        self.0.contains_key(login)
    }

    /// Adds verifiers of further logins.
    pub fn extend<'a>(&mut self, others: impl IntoIterator<Item = (&'a String, &'a String)>) {
        for (login, verifier) in others {
            self.0.entry(login.clone()).or_insert_with(|| verifier.clone());
        }
    }

    /// Whether the verifier that the route needs is known.
    ///
    /// # Errors
    /// While it is not.
    pub fn check(&self, route: &Route) -> Result<(), String> {
        match &route.login {
            _ if route.passwords == Passwords::Lookup => Ok(()),
            Some(login) if self.of(&route.database).any(|(known, _)| known == login) => Ok(()),
            Some(login) => Err(format!(
                "the Secret {} has no verifier of the login {login} yet",
                ahoi_api::verifier_secret(&route.database)
            )),
            None => Err("route.login must be set where route.passwords is File".to_owned()),
        }
    }
}

fn is_login(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
}

/// Whether pgbouncer takes the text for a verifier, and it ends neither its line nor its quotes. pgbouncer would take anything
/// else for a plain password.
pub(super) fn is_verifier(text: &str) -> bool {
    text.len() <= 512
        && text.starts_with("SCRAM-SHA-256$")
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-$:+/=".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{VERIFIER, file_route, route};

    fn of(logins: &[&str]) -> Vec<(String, String)> {
        logins.iter().map(|login| ((*login).to_owned(), VERIFIER.to_owned())).collect()
    }

    fn logins(verifiers: &Verifiers, database: &str) -> Vec<String> {
        verifiers.of(database).map(|(login, _)| login.clone()).collect()
    }

    #[test]
    fn a_route_waits_for_the_verifier_of_its_login() {
        let mut verifiers = Verifiers::default();
        assert_eq!(verifiers.check(&route("c_a")), Ok(()));
        let why = verifiers.check(&file_route("c_a")).unwrap_err();
        assert_eq!(why, "the Secret ahoi-verifiers-2 has no verifier of the login c_a_a yet");
        verifiers.update(of(&["c_a_b"]), []);
        assert!(verifiers.check(&file_route("c_a")).is_err(), "that of the other login");
        verifiers.update(of(&["c_a_a", "c_a_b"]), []);
        assert_eq!(verifiers.check(&file_route("c_a")), Ok(()));
        assert_eq!(logins(&verifiers, "c_a"), ["c_a_a", "c_a_b"]);
        assert_eq!(logins(&verifiers, "c_"), Vec::<String>::new());
    }

    #[test]
    fn verifiers_of_a_deleted_secret_stay() {
        let (one, other) = (file_route("c_a"), file_route("c_b"));
        let mut verifiers = Verifiers::default();
        verifiers.update(of(&["c_a_a", "c_b_a", "c_b_b"]), []);
        verifiers.update(of(&["c_b_b"]), [&one, &other]);
        assert_eq!(logins(&verifiers, "c_a"), ["c_a_a"], "none of its logins is left: kept");
        assert_eq!(logins(&verifiers, "c_b"), ["c_b_b"], "one of two is left: the other was removed");
        verifiers.update([], [&other]);
        assert_eq!(logins(&verifiers, "c_a"), Vec::<String>::new(), "its route was removed");
    }

    #[test]
    fn only_verifiers_reach_the_file() {
        let mut verifiers = Verifiers::default();
        let odd = [("c_a_a", "secret"), ("c_a_b", "SCRAM-SHA-256$4096:x\"\n\"postgres\" \"y"), ("c_a\n", VERIFIER)];
        verifiers.update(odd.map(|(login, text)| (login.to_owned(), text.to_owned())), []);
        assert_eq!(verifiers, Verifiers::default());
    }

    #[test]
    fn debug_output_contains_no_verifier() {
        let mut verifiers = Verifiers::default();
        verifiers.update(of(&["c_a_a"]), []);
        assert_eq!(format!("{verifiers:?}"), "Verifiers(1)");
    }
}
