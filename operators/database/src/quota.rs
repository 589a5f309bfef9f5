//! The storage quota. Pure.
//!
//! From 80 % on there is a warning. From 100 % on writes are refused, until less than 90 % is used: a database near the limit does
//! not flap. The logins of a database that grows nevertheless are closed for some time.

use std::time::Duration;

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
        match find(conditions, CONDITION).map(|condition| condition.reason.as_str()) {
            Some("StorageQuotaExceeded") => Level::Exceeded,
            Some("StorageQuotaBreached") => Level::Closed,
            Some("StorageQuotaWarning") => Level::Warning,
            _ => Level::Within,
        }
    }

    /// Reason and message, for the condition and the event.
    pub fn explain(self) -> (&'static str, &'static str) {
        match self {
            Level::Within => ("WithinStorageQuota", "less than 80 % of the storage is used"),
            Level::Warning => (
                "StorageQuotaWarning",
                "at least 80 % of the storage is used; at 100 % writes are refused: delete data or raise spec.storage",
            ),
            Level::Exceeded => (
                "StorageQuotaExceeded",
                "the storage is used up and writes are refused until less than 90 % is used: DELETE rows and VACUUM FULL, \
                 TRUNCATE or DROP tables, or raise spec.storage",
            ),
            Level::Closed => (
                "StorageQuotaBreached",
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
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn levels_have_a_hysteresis() {
        let steps = [
            (79, Level::Within),
            (80, Level::Warning),
            (99, Level::Warning),
            (100, Level::Exceeded),
            (90, Level::Exceeded),
            (89, Level::Warning),
            (91, Level::Warning),
            (10, Level::Within),
        ];
        let mut level = Level::Within;
        for (percent, expected) in steps {
            level = level.next(percent, 100);
            assert_eq!(level, expected, "{percent} %");
        }
    }

    #[test]
    fn a_closed_database_opens_when_it_has_free_storage() {
        assert_eq!(Level::Closed.next(150, 100), Level::Closed);
        assert_eq!(Level::Closed.next(90, 100), Level::Closed);
        assert_eq!(Level::Closed.next(150, 170), Level::Warning, "the storage was raised");
        assert!(Level::Exceeded < Level::Closed);
    }

    #[test]
    fn small_changes_are_not_written() {
        const GB: i64 = 1_000_000_000;
        assert!(is_news(None, 7_300_000, 256 * GB));
        assert!(!is_news(Some(7_300_000), 9_000_000, 256 * GB), "a thousandth of the storage at least");
        assert!(is_news(Some(7_300_000), 300_000_000, 256 * GB));
        assert!(!is_news(Some(100 * GB), 104 * GB, 256 * GB), "5 % at least");
        assert!(is_news(Some(100 * GB), 106 * GB, 256 * GB));
        assert!(is_news(Some(204 * GB), 205 * GB, 256 * GB), "80 %");
        assert!(!is_news(Some(5), 5, 256 * GB));
    }

    #[test]
    fn levels_survive_a_round_trip() {
        for level in [Level::Within, Level::Warning, Level::Exceeded, Level::Closed] {
            let mut conditions = Vec::new();
            let _ = ahoi_reconcile::conditions::set(&mut conditions, level.condition());
            assert_eq!(Level::read(&conditions), level);
        }
        assert_eq!(Level::read(&[]), Level::Within);
    }

    proptest! {
        #[test]
        fn a_level_is_stable(size in 0..i64::MAX, storage in 1..i64::MAX, known in proptest::option::of(0..i64::MAX)) {
            for level in [Level::Within, Level::Warning, Level::Exceeded, Level::Closed] {
                let next = level.next(size, storage);
                prop_assert_eq!(next.next(size, storage), next);
            }
            prop_assert!(!is_news(Some(size), size, storage));
            let _ = is_news(known, size, storage);
        }
    }
}
