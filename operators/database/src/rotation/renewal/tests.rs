use super::*;

fn now() -> Timestamp {
    "2026-03-01T00:00:00Z".parse().unwrap()
}

fn interval(interval: &str) -> Credentials {
    Credentials { rotation_interval: Some(interval.into()), ..Credentials::default() }
}

fn trigger(trigger: &str) -> Credentials {
    Credentials { rotation_request: Some(trigger.into()), ..Credentials::default() }
}

fn since(at: &str) -> CredentialsStatus {
    CredentialsStatus {
        rotated_at: Time(at.parse().unwrap()),
        rotation_request: Some("one".into()),
        previous_login: None,
        lost_secrets: None,
    }
}

fn due_with(wanted: &Credentials, known: &CredentialsStatus) -> Due {
    due(Some(wanted), Some(known), "3f2504e0-4f89-41d3-9a0c-0305e82c3301", now()).unwrap()
}

#[test]
fn a_trigger_rotates_once() {
    let known = since("2026-02-28T23:59:59Z");
    assert_eq!(due_with(&trigger("one"), &known), Due::Never);
    assert_eq!(due_with(&trigger("two"), &known), Due::Now);
    assert_eq!(due_with(&Credentials::default(), &known), Due::Never, "removed");
    let rotated = begun(Some(&trigger("two")), Some(&known), Some("a".into()), now());
    assert_eq!((rotated.rotation_request.as_deref(), rotated.previous_login.as_deref()), (Some("two"), Some("a")));
    let kept = begun(Some(&Credentials::default()), Some(&known), None, now());
    assert_eq!(kept.rotation_request.as_deref(), Some("one"));
    assert_eq!(found(Some(&known), Some("a".into()), now()).rotation_request.as_deref(), Some("one"));
}

#[test]
fn lost_secrets_replace_a_login_with_growing_delays() {
    let lost = |losses: i32| CredentialsStatus { lost_secrets: Some(losses), ..since("2026-02-28T23:58:00Z") };
    let seconds = |known: &CredentialsStatus, former| {
        replaceable_at(Some(known), former, now()).map(|at| at.as_second() - known.rotated_at.0.as_second())
    };
    assert_eq!(seconds(&since("2026-02-28T23:58:00Z"), false), None, "the first is replaced at once");
    assert_eq!(seconds(&since("2026-02-28T23:58:00Z"), true), Some(150), "a former login stays open for its clients");
    assert_eq!([1, 2, 3, 9].map(|losses| seconds(&lost(losses), false)), [150, 300, 600, 3600].map(Some));
    let before = CredentialsStatus { lost_secrets: Some(9), ..since("2026-02-28T22:59:59Z") };
    assert_eq!((losses(Some(&before), now()), seconds(&before, false)), (0, None), "an hour ago");
    assert_eq!(losses(Some(&lost(3)), now()), 3);
}

#[test]
fn rotations_are_staggered_in_the_last_fifth_of_the_interval() {
    assert_eq!(due_with(&interval("100h"), &since("2026-02-24T19:59:59Z")), Due::Now, "100 h and 1 s");
    let Due::In(rest) = due_with(&interval("100h"), &since("2026-02-28T23:00:00Z")) else {
        panic!("due after an hour of a hundred")
    };
    let hours = rest.as_secs_f64() / 3600.0;
    assert!((79.0..=99.0).contains(&hours), "{hours} h");
    let others = ["a", "b", "c", "d"].map(|uid| staggered(uid, Duration::from_secs(20 * 3600)));
    assert!(others.iter().all(|one| others.iter().filter(|other| *other == one).count() == 1), "{others:?}");
    assert_eq!(
        due_with(&interval("1h30m"), &since("2027-01-01T00:00:00Z")),
        due_with(&interval("1h30m"), &since("2026-03-01T00:00:00Z")),
        "the clock went back"
    );
    assert!(due(Some(&interval("h")), Some(&since("2026-02-28T23:00:00Z")), "", now()).is_err());
}
