//! Names of a database and its roles.
//!
//! Derived from the uid, so that no two objects share a name, and no customer reads the name of another in the catalogs, which
//! every login may read.

/// Group role of all customers' logins; poolers look up only its members.
pub const TENANTS: &str = "ahoi_tenants";

/// A database and its roles. All names derive from the name of the database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names {
    /// Name of the database.
    pub database: String,
    /// Role that owns every object in the database; it may not log in.
    pub owner: String,
    /// Login of the customer's applications; a member of the owner role.
    pub login: String,
    /// The other login of the pair, which is closed except during a rotation.
    pub other: String,
    /// Role that earlier releases used while the storage was exceeded.
    pub frozen: String,
}

impl Names {
    /// The names for a Database with this uid.
    pub fn from_uid(uid: &str) -> Self {
        let digits = uid.chars().filter(char::is_ascii_hexdigit).take(12);
        Self::of(&format!("c_{}", digits.collect::<String>().to_ascii_lowercase()))
    }

    /// The names for a database of this name.
    pub fn of(database: &str) -> Self {
        let [login, other] = ahoi_api::logins(database);
        Names {
            database: database.to_owned(),
            owner: format!("{database}_owner"),
            login,
            other,
            frozen: format!("{database}_frozen"),
        }
    }

    /// The same names with `login` in use, if it is one of the two.
    pub fn used_by(mut self, login: &str) -> Self {
        if login == self.other {
            std::mem::swap(&mut self.login, &mut self.other);
        }
        self
    }

    /// The same names with the other login in use.
    pub fn rotated(mut self) -> Self {
        std::mem::swap(&mut self.login, &mut self.other);
        self
    }

    /// Name of the archived database.
    pub fn archived(&self, unix_time: i64) -> String {
        format!("zz_{}_{unix_time}", self.database)
    }
}

/// Whether a name is one of a database of Ahoi.
pub fn is_database(name: &str) -> bool {
    name.strip_prefix("c_")
        .is_some_and(|digits| digits.len() == 12 && digits.chars().all(|c| matches!(c, '0'..='9' | 'a'..='f')))
}

/// Whether a name is one of a role of Ahoi, and not of an administrator's.
pub fn is_role(name: &str) -> bool {
    name == TENANTS
        || name
            .rsplit_once('_')
            .is_some_and(|(database, suffix)| is_database(database) && matches!(suffix, "owner" | "a" | "b" | "frozen"))
}

#[cfg(test)]
mod tests;
