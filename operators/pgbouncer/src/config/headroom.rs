//! Places for clients that have not logged in yet.
//!
//! pgbouncer counts a client against its limits from the startup packet on, before the client has proved its password. With the
//! limits that clients may use up, anyone who reaches the port can take all places of a database. So pgbouncer's limits are
//! higher than those by as much as the process can afford, and the agent holds the customers to theirs (see
//! [`bounds`](crate::bounds)).

/// Places for unfinished logins in a process, at most. One source address has about 28,000 ports.
const MOST: u64 = 16_000;
/// What an unfinished login takes, the kernel's part included, measured with pgbouncer 1.26.1: 14 KiB, with TLS 50 to 60 KiB.
const PLAIN: u64 = 16 << 10;
const ENCRYPTED: u64 = 64 << 10;

/// What the process may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resources {
    /// Open files.
    pub files: u64,
    /// Bytes of memory.
    pub memory: u64,
}

impl Resources {
    /// Places for unfinished logins beside `clients` that have logged in. A half of the memory and an eighth of the files are
    /// left for everything else.
    #[must_use]
    pub fn logins(&self, clients: i32, tls: bool) -> i32 {
        let by_memory = self.memory / 2 / if tls { ENCRYPTED } else { PLAIN };
        let by_files = (self.files - self.files / 8).saturating_sub(u64::try_from(clients).unwrap_or(0));
        i32::try_from(by_memory.min(by_files).min(MOST)).unwrap_or(0)
    }
}

/// Of the places for unfinished logins, those that one database may take. The others are left for the other databases.
pub(super) fn of_one_database(logins: i32) -> i32 {
    logins - logins / 4
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_as_the_process_can_afford() {
        let logins = |files, memory: u64, tls| Resources { files, memory: memory << 20 }.logins(5000, tls);
        assert_eq!(logins(1 << 20, 1024, false), 16_000);
        assert_eq!(logins(1 << 20, 1024, true), 8192, "a login with TLS takes more memory");
        assert_eq!(logins(20_000, 1024, false), 12_500, "files");
        assert_eq!(logins(1 << 20, 128, false), 4096, "memory");
        assert_eq!(logins(1024, 1024, false), 0, "there are not even files for the clients");
        assert_eq!(logins(u64::MAX, 1 << 30, false), 16_000);
    }
}
