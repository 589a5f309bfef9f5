//! What the catalogs of a server do not show, and was found by trying: wrong passwords where verifiers are hidden, and dropped
//! extensions, which no catalog that databases share lists.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::model::Observed;
use super::names::Names;
use super::step::Step;

/// Corrections to what is observed on a server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Corrections {
    /// Logins that do not have their password.
    pub wrong_passwords: HashSet<String>,
    /// Declared extensions that do not exist, by database.
    pub lost_extensions: HashMap<String, BTreeSet<String>>,
}

impl Corrections {
    /// Those for one database and its logins.
    pub fn of(&self, names: &Names) -> Self {
        let logins = [&names.login, &names.other];
        let wrong = logins.into_iter().filter(|login| self.wrong_passwords.contains(*login)).cloned();
        let lost = self.lost_extensions.get_key_value(&names.database);
        Corrections {
            wrong_passwords: wrong.collect(),
            lost_extensions: lost.into_iter().map(|(database, lost)| (database.clone(), lost.clone())).collect(),
        }
    }

    /// Corrects what was observed.
    pub fn apply(&self, observed: &mut Observed) {
        for login in &self.wrong_passwords {
            observed.roles.get_mut(login).into_iter().for_each(|role| role.verifier = None);
        }
        for (database, lost) in &self.lost_extensions {
            observed.databases.get_mut(database).into_iter().for_each(|state| state.lost_extensions.clone_from(lost));
        }
    }

    /// Removes what was repaired: the corrections in `before` that `after` does not have any more.
    pub fn remove_repaired(&mut self, before: &Self, after: &Self) {
        self.wrong_passwords
            .retain(|login| !before.wrong_passwords.contains(login) || after.wrong_passwords.contains(login));
        for (database, lost) in &before.lost_extensions {
            let left = after.lost_extensions.get(database);
            let is_repaired = |name: &String| lost.contains(name) && left.is_none_or(|left| !left.contains(name));
            self.lost_extensions
                .get_mut(database)
                .into_iter()
                .for_each(|known| known.retain(|name| !is_repaired(name)));
        }
    }

    /// Removes what these steps in a database have repaired.
    pub fn settle(&mut self, database: &str, done: &[Step]) {
        for step in done {
            match step {
                Step::Login { role, .. } => _ = self.wrong_passwords.remove(role),
                Step::Extension { extension, .. } => {
                    let lost = self.lost_extensions.get_mut(database);
                    lost.into_iter().for_each(|lost| _ = lost.remove(extension));
                }
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests;
