//! Capacity for clients that have not logged in yet.
//!
//! pgbouncer counts a client against its limits from the startup packet on, before it checks the password. Any client that
//! reaches the port could use up the limit of a customer. So pgbouncer's limits are higher by as much as the process can
//! afford, and the agent enforces those of the customers (see [`bounds`](crate::bounds)).

/// Maximum number of unfinished logins in a process. One source address has about 28,000 ports.
const MAX_LOGINS: u64 = 16_000;
/// Memory of an unfinished login, the kernel's part included. Measured with pgbouncer 1.26.1: 14 KiB, with TLS 50 to 60 KiB.
const PLAIN: u64 = 16 << 10;
const ENCRYPTED: u64 = 64 << 10;

/// The resources of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resources {
    /// Maximum number of open files.
    pub files: u64,
    /// Memory in bytes.
    pub memory: u64,
}

impl Resources {
    /// Number of unfinished logins that fit beside `clients` that have logged in. Half of the memory and an eighth of the files
    /// are reserved for everything else.
    #[must_use]
    pub fn logins(&self, clients: i32, tls: bool) -> i32 {
        let by_memory = self.memory / 2 / if tls { ENCRYPTED } else { PLAIN };
        let by_files = (self.files - self.files / 8).saturating_sub(u64::try_from(clients).unwrap_or(0));
        i32::try_from(by_memory.min(by_files).min(MAX_LOGINS)).unwrap_or(0)
    }
}

/// Number of unfinished logins that one database may have. The rest is reserved for the other databases.
pub(super) fn of_one_database(logins: i32) -> i32 {
    logins - logins / 4
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_and_open_files_limit_unfinished_logins() {
        let logins = |files, memory: u64, tls| Resources { files, memory: memory << 20 }.logins(5000, tls);
        assert_eq!(logins(1 << 20, 1024, false), 16_000);
        assert_eq!(logins(1 << 20, 1024, true), 8192, "a login with TLS takes more memory");
        assert_eq!(logins(20_000, 1024, false), 12_500, "files");
        assert_eq!(logins(1 << 20, 128, false), 4096, "memory");
        assert_eq!(logins(1024, 1024, false), 0, "not even the clients fit");
        assert_eq!(logins(u64::MAX, 1 << 30, false), 16_000);
    }
}
