//! The conditions about the disk of a server and its temporary files. Pure.
//!
//! PostgreSQL does not report the size of its disk, so `spec.diskSize` does. Its log and other files on the disk are not counted.

use ahoi_api::{DatabaseServer, DatabaseServerStatus, Reason};
use ahoi_reconcile::conditions::{self, ConditionStatus, DesiredCondition, find};

/// Type of the condition about the disk.
pub const DISK: &str = "DiskOk";
/// Type of the condition about temporary files.
const TEMPORARY: &str = "TemporaryFilesLimited";
/// Type of the condition about databases that every login may connect to.
const MAINTENANCE_DATABASES: &str = "DefaultDatabasesClosed";
/// Percentage of used bytes from which the disk is nearly full, and below which it no longer is.
const NEARLY_FULL: i64 = 85;
const ENOUGH: i64 = 80;
/// Bytes of temporary files that each customer may always have.
const LEAST_TEMPORARY: i64 = 256 << 20;

/// Whether a customer with this storage has more temporary files than allowed.
pub fn is_too_much(temporary: i64, storage: i64) -> bool {
    temporary > storage.max(LEAST_TEMPORARY)
}

/// Records the used bytes if they changed by 1 %, and whether the disk is nearly full. The result is the used fraction.
pub fn set_condition(status: &mut DatabaseServerStatus, server: &DatabaseServer, used: i64) -> Option<f64> {
    let size = server.spec.disk_size.as_ref().and_then(|size| size.bytes().ok()).filter(|size| *size > 0);
    let known = status.used_bytes.unwrap_or_default();
    if known.abs_diff(used) > size.unwrap_or(known).unsigned_abs() / 100 {
        status.used_bytes = Some(used);
    }
    let Some(size) = size else {
        conditions::remove(&mut status.conditions, DISK);
        return None;
    };
    let was_full = find(&status.conditions, DISK).is_some_and(|condition| condition.status == "False");
    let percent = i64::try_from(i128::from(used) * 100 / i128::from(size)).unwrap_or(i64::MAX);
    let is_full = percent >= if was_full { ENOUGH } else { NEARLY_FULL };
    let desired = if is_full {
        let message = format!(
            "at least {ENOUGH} % of the disk is used (spec.diskSize {}): PostgreSQL stops when it is full. Enlarge the disk \
             and spec.diskSize, or drop databases that status.kept lists",
            server.spec.disk_size.as_ref().map(ToString::to_string).unwrap_or_default()
        );
        DesiredCondition::new(DISK, ConditionStatus::False, Reason::DiskNearlyFull, message)
    } else {
        let message = format!("less than {NEARLY_FULL} % of the disk is used");
        DesiredCondition::new(DISK, ConditionStatus::True, Reason::EnoughSpace, message)
    };
    let _ = conditions::set(&mut status.conditions, desired.observed_generation(server.metadata.generation));
    // The loss of precision does not matter for a fraction.
    #[allow(clippy::cast_precision_loss)]
    Some(used as f64 / size as f64)
}

/// Whether temporary files of customers are limited: by settings of their logins, or by a setting of the server.
pub fn temporary_condition(admin_limits: bool, server_limit: &str, admin: &str) -> DesiredCondition {
    if admin_limits || server_limit != "-1" {
        let message = "the temporary files of each session are limited";
        return DesiredCondition::new(TEMPORARY, ConditionStatus::True, Reason::Limited, message);
    }
    let message = format!(
        "the temporary files of one customer can fill the disk: as a superuser run GRANT SET ON PARAMETER temp_file_limit TO \
         \"{admin}\", or set temp_file_limit in postgresql.conf"
    );
    DesiredCondition::new(TEMPORARY, ConditionStatus::False, Reason::PrivilegeMissing, message)
}

/// Whether every login may connect to databases of the administrators. `open` are their quoted names.
pub fn maintenance_databases_condition(open: &[String]) -> DesiredCondition {
    if open.is_empty() {
        let message = "logins of customers may connect to their own databases only";
        return DesiredCondition::new(MAINTENANCE_DATABASES, ConditionStatus::True, Reason::Closed, message);
    }
    let message = format!(
        "every login may connect to databases that the admin role does not own: as their owner, GRANT CONNECT to the roles that \
         need it, and then run REVOKE CONNECT ON DATABASE {} FROM PUBLIC",
        open.join(", ")
    );
    DesiredCondition::new(MAINTENANCE_DATABASES, ConditionStatus::False, Reason::OpenToPublic, message)
}

#[cfg(test)]
mod tests;
