use super::*;

#[test]
fn growth_is_of_the_last_minute() {
    let (start, second) = (Instant::now(), Duration::from_secs(1));
    let mut growth = Growth::default();
    growth.note(100_000_000, start);
    assert!(!growth.is_too_much(), "one size is no growth");
    growth.note(100_000_000 + TOLERATED, start + 20 * second);
    assert!(!growth.is_too_much());
    growth.note(100_000_001 + TOLERATED, start + 40 * second);
    assert!(growth.is_too_much());
    // Half of it in each minute goes on for ever.
    let mut slow = Growth::default();
    for step in 0..100_u32 {
        slow.note(i64::from(step) * TOLERATED / 6, start + step * 20 * second);
        assert!(!slow.is_too_much(), "step {step}");
    }
}

#[test]
fn maps_are_no_growth_once() {
    let (start, second) = (Instant::now(), Duration::from_secs(1));
    let mut growth = Growth::default();
    growth.note(0, start);
    assert!(!growth.is_still_too_much(5 * TOLERATED, 5 * TOLERATED, false, start + 20 * second), "VACUUM wrote maps");
    assert!(!growth.is_too_much(), "what was explained is not asked again");
    assert!(growth.is_still_too_much(7 * TOLERATED, 5 * TOLERATED, false, start + 40 * second), "the same maps");
}

#[test]
fn vacuum_full_has_room_for_a_copy() {
    let (start, second) = (Instant::now(), Duration::from_secs(1));
    let mut growth = Growth::from(100 * TOLERATED, start);
    for step in 1..9_u32 {
        let size = (100 + 11 * i64::from(step)) * TOLERATED;
        assert!(!growth.is_still_too_much(size, 0, true, start + step * 20 * second), "step {step}");
    }
    assert!(growth.is_still_too_much(201 * TOLERATED, 0, true, start + 180 * second), "and for no more");
    assert!(!growth.is_still_too_much(101 * TOLERATED, 0, false, start + 400 * second), "it has ended");
}
