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
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_come_from_the_uid() {
        let names = Names::from_uid("3F2504e0-4f89-41d3-9a0c-0305e82c3301");
        assert_eq!(names.database, "c_3f2504e04f89");
        assert_eq!(names.owner, "c_3f2504e04f89_owner");
        assert_eq!(names.login, "c_3f2504e04f89_a");
        assert_eq!(names.archived(1_790_000_000), "zz_c_3f2504e04f89_1790000000");
    }

    #[test]
    fn the_published_login_is_in_use() {
        let names = Names::of("c_3f2504e04f89");
        assert_eq!((names.login.as_str(), names.other.as_str()), ("c_3f2504e04f89_a", "c_3f2504e04f89_b"));
        assert_eq!(names.clone().used_by("c_3f2504e04f89_b"), names.clone().rotated());
        assert_eq!(names.clone().used_by("c_3f2504e04f89_a"), names);
        assert_eq!(names.clone().used_by("postgres"), names);
    }

    #[test]
    fn other_names_are_not_ours() {
        for name in
            ["postgres", "c_3f2504e04f89", "c_3f2504e04f89_c", "c_3F2504E04F89_a", "c_3f25_a", "owner", "_a", ""]
        {
            assert!(!is_role(name), "{name}");
        }
        for name in ["postgres", "c_3f2504e04f8", "c_3f2504e04f89a", "zz_c_3f2504e04f89_1", "c_3f2504e04f8é"] {
            assert!(!is_database(name), "{name}");
        }
    }

    proptest! {
        #[test]
        fn fit_in_63_bytes_and_are_recognised(uid in "[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", time in 0_i64..=i64::from(u32::MAX)) {
            let names = Names::from_uid(&uid);
            prop_assert!(is_database(&names.database));
            for role in [&names.owner, &names.login, &names.other, &names.frozen] {
                prop_assert!(is_role(role));
                prop_assert!(role.len() <= 63);
            }
            prop_assert!(names.archived(time).len() <= 63);
        }
    }
}
