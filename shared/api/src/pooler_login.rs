//! The login by which pgbouncer looks up passwords on a server, as the controller passes it to the agents.

use std::fmt;

/// A login with its password. Both are in one entry of a Secret, so that an agent always reads both of one version.
#[derive(Clone, PartialEq, Eq)]
pub struct PoolerLogin {
    /// The role.
    pub name: String,
    /// Its password.
    pub password: String,
}

impl PoolerLogin {
    /// From an entry of the Secret: `name:password`. `None` if it is something else.
    #[must_use]
    pub fn parse(entry: &[u8]) -> Option<Self> {
        let (name, password) = std::str::from_utf8(entry).ok()?.split_once(':')?;
        let given = !name.is_empty() && !password.is_empty();
        given.then(|| PoolerLogin { name: name.to_owned(), password: password.to_owned() })
    }

    /// The entry of the Secret.
    #[must_use]
    pub fn entry(&self) -> Vec<u8> {
        format!("{}:{}", self.name, self.password).into_bytes()
    }
}

impl fmt::Debug for PoolerLogin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without the password.
        f.debug_struct("PoolerLogin").field("name", &self.name).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_nothing_else() {
        let login = PoolerLogin { name: "ahoi_pooler_1_a".into(), password: "a:b".into() };
        assert_eq!(PoolerLogin::parse(&login.entry()), Some(login.clone()));
        for entry in [&b"password"[..], b":password", b"name:", b"", b"name:\xff"] {
            assert_eq!(PoolerLogin::parse(entry), None);
        }
        assert!(!format!("{login:?}").contains("a:b"));
    }
}
