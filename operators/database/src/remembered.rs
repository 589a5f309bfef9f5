//! Passwords that a login has or is about to get on its server, and that no Secret contains yet: the Secret could not be written, or
//! is being deleted. Kept in memory until then, so that a retry uses the same password instead of generating another.

use std::collections::HashMap;

use parking_lot::Mutex;

use crate::postgres::scram::Credentials;

/// By the uid of the Database, the login and its credentials.
#[derive(Default)]
pub struct Remembered(Mutex<HashMap<String, (String, Credentials)>>);

impl Remembered {
    /// Keeps the credentials until they are [forgotten](Self::forget).
    pub fn keep(&self, uid: &str, login: &str, credentials: &Credentials) {
        self.0.lock().insert(uid.to_owned(), (login.to_owned(), credentials.clone()));
    }

    /// The credentials of the login.
    pub fn of(&self, uid: &str, login: &str) -> Option<Credentials> {
        self.0.lock().get(uid).filter(|(known, _)| known == login).map(|(_, credentials)| credentials.clone())
    }

    /// Forgets them: a Secret contains them, or the Database was deleted.
    pub fn forget(&self, uid: &str) {
        self.0.lock().remove(uid);
    }
}

#[cfg(test)]
mod tests;
