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
mod tests {
    use super::*;
    use crate::postgres::model::{DatabaseState, RoleState};

    #[test]
    fn a_repaired_login_and_extension_are_forgotten() {
        let names = Names::of("c_3f2504e04f89");
        let database = names.database.clone();
        let all = Corrections {
            wrong_passwords: [names.login.clone(), "c_000000000000_a".to_owned()].into(),
            lost_extensions: [(database.clone(), ["citext".to_owned(), "hstore".to_owned()].into())].into(),
        };
        let (mut known, mut ours) = (all.clone(), all.of(&names));
        let before = ours.clone();
        assert_eq!(ours.wrong_passwords, [names.login.clone()].into());
        let mut observed = Observed {
            databases: [(database.clone(), DatabaseState::default())].into(),
            roles: [(names.login.clone(), RoleState { verifier: Some("v".into()), ..RoleState::default() })].into(),
            ..Observed::default()
        };
        ours.apply(&mut observed);
        assert_eq!(
            (observed.databases[&database].lost_extensions.len(), &observed.roles[&names.login].verifier),
            (2, &None)
        );
        let login = Step::Login { role: names.login.clone(), verifier: "v".into() };
        let extension = Step::Extension { extension: "citext".into(), owner: names.owner };
        ours.settle(&database, &[login, extension]);
        assert!(ours.wrong_passwords.is_empty());
        assert_eq!(ours.lost_extensions[&database], ["hstore".to_owned()].into());
        known.remove_repaired(&before, &ours);
        assert_eq!(known.wrong_passwords, ["c_000000000000_a".to_owned()].into(), "those of others stay");
        assert_eq!(known.lost_extensions, ours.lost_extensions);
    }
}
