//! The storage quota. Pure.
//!
//! From 80 % on there is a warning. From 100 % on writes are refused, until less than 90 % is used: a database near the limit does
//! not flap. The logins of a database that grows nevertheless are closed for some time.

use std::time::Duration;

use ahoi_api::Reason;
use ahoi_reconcile::conditions::{Condition, ConditionStatus, DesiredCondition, find};

use crate::postgres::desired::Access;

/// Type of the condition.
pub const CONDITION: &str = "StorageQuotaOk";

/// How much of the storage is used, and the consequences.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Less than 80 %.
    Within,
    /// 80 % and more.
    Warning,
    /// 100 % and more, until less than 90 % is used.
    Exceeded,
    /// The database grew after that, and its logins are closed.
    Closed,
}

/// How long the logins of a growing database stay closed.
pub const CLOSED_FOR: Duration = Duration::from_secs(600);

impl Level {
    /// The level after this one, for a measured size.
    pub fn next(self, size: i64, storage: i64) -> Self {
        let reaches = |percent: i128| i128::from(size) * 100 >= i128::from(storage) * percent;
        match self {
            Level::Closed if reaches(90) => Level::Closed,
            _ if reaches(100) => Level::Exceeded,
            Level::Exceeded if reaches(90) => Level::Exceeded,
            _ if reaches(80) => Level::Warning,
            _ => Level::Within,
        }
    }

    /// The level that the conditions report.
    pub fn read(conditions: &[Condition]) -> Self {
        match find(conditions, CONDITION).and_then(|condition| Reason::parse(&condition.reason)) {
            Some(Reason::StorageQuotaExceeded) => Level::Exceeded,
            Some(Reason::StorageQuotaBreached) => Level::Closed,
            Some(Reason::StorageQuotaWarning) => Level::Warning,
            _ => Level::Within,
        }
    }

    /// Reason and message, for the condition and the event.
    pub fn explain(self) -> (Reason, &'static str) {
        match self {
            Level::Within => (Reason::WithinStorageQuota, "less than 80 % of the storage is used"),
            Level::Warning => (
                Reason::StorageQuotaWarning,
                "at least 80 % of the storage is used; at 100 % writes are refused: delete data or raise spec.storage",
            ),
            Level::Exceeded => (
                Reason::StorageQuotaExceeded,
                "the storage is used up and writes are refused until less than 90 % is used: DELETE rows and VACUUM FULL, \
                 TRUNCATE or DROP tables, or raise spec.storage",
            ),
            Level::Closed => (
                Reason::StorageQuotaBreached,
                "the database grew by more than 1 MiB in a minute after its storage was used up, and its logins are closed until \
                 status.closedUntil: delete data then, or raise spec.storage now",
            ),
        }
    }

    /// The condition.
    pub fn condition(self) -> DesiredCondition {
        let (reason, message) = self.explain();
        let status = if self == Level::Within { ConditionStatus::True } else { ConditionStatus::False };
        DesiredCondition::new(CONDITION, status, reason, message)
    }
}

/// Whether a new size is worth a write: it differs by 5 % from the reported size and by a thousandth of the storage, or it changes
/// the level.
pub fn is_news(known: Option<i64>, size: i64, storage: i64) -> bool {
    let Some(known) = known else { return true };
    let level = |size| Level::Within.next(size, storage);
    let change = known.abs_diff(size);
    level(known) != level(size)
        || (change >= known.unsigned_abs() / 20 && change >= storage.unsigned_abs() / 1000 && change > 0)
}

impl From<Level> for Access {
    fn from(level: Level) -> Self {
        match level {
            Level::Within | Level::Warning => Access::Write,
            Level::Exceeded => Access::Shrink,
            Level::Closed => Access::Closed,
        }
    }
}

#[cfg(test)]
mod tests;
