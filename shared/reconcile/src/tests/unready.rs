//! Objects that are not ready are counted.

use std::time::Duration;

use k8s_openapi::jiff::Timestamp;

use super::{Ship, ShipSpec};
use crate::cache::Key;
use crate::conditions::{Verdict, set_verdict, shorten};
use crate::unready::{Counts, Unready};

#[test]
fn objects_that_are_not_ready_are_counted_until_they_are_ready_or_deleted() {
    let unready = Unready::default();
    let see = |name: &str, verdict: Verdict| {
        let mut object = Ship::new(name, ShipSpec::default());
        set_verdict(&mut object.status.get_or_insert_default().conditions, None, verdict);
        unready.observe(&object);
        Key::of(&object)
    };
    let later = Timestamp::now() + Duration::from_secs(100);
    let count = || unready.count(|_| true, later);
    assert_eq!(count(), Counts::default());
    see("a", Verdict::ready("fine"));
    let b = see("b", Verdict::stalled("Broken", "mend it"));
    see("c", Verdict::progressing("Waiting", "wait"));
    let counts = count();
    assert_eq!((counts.stalled, counts.reconciling), (1, 1));
    assert!((99..=101).contains(&counts.longest), "{counts:?}");
    assert_eq!(unready.count(|key| *key == b, later).reconciling, 0, "another replica's");
    unready.forget(&b);
    see("c", Verdict::ready("fine"));
    assert_eq!(count(), Counts::default());
}

#[test]
fn a_message_that_quotes_a_large_value_is_shortened() {
    let mut conditions = Vec::new();
    set_verdict(&mut conditions, None, Verdict::stalled("Refused", "ö".repeat(40_000)));
    shorten(&mut conditions);
    let lengths: Vec<usize> = conditions.iter().map(|condition| condition.message.len()).collect();
    assert!(lengths.iter().all(|length| (4000..=4096).contains(length)), "{lengths:?}");
    assert!(conditions[0].message.ends_with("ö…"));
}
