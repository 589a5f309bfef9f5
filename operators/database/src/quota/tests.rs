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
