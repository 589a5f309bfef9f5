//! When a login is replaced by the other one of its pair, and what the status records about it. Pure.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use ahoi_api::{Credentials, CredentialsStatus};
use ahoi_reconcile::Error;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// Minimum time that a former login stays open: until every kubelet has updated the Secret for clients that read it from a file and
/// may have no connection at the moment.
pub const GRACE: Duration = Duration::from_secs(120);

/// When credentials are due for replacement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// At once.
    Now,
    /// After this time.
    In(Duration),
    /// Not until the spec changes.
    Never,
}

/// When the credentials of the object with this uid are due, by request or by age.
pub fn due(
    wanted: Option<&Credentials>,
    known: Option<&CredentialsStatus>,
    uid: &str,
    now: Timestamp,
) -> Result<Due, Error> {
    let (Some(wanted), Some(known)) = (wanted, known) else { return Ok(Due::Never) };
    if wanted.rotation_trigger.is_some() && wanted.rotation_trigger != known.trigger {
        return Ok(Due::Now);
    }
    let Some(interval) = &wanted.rotation_interval else { return Ok(Due::Never) };
    let interval = interval.parse::<SignedDuration>().ok().and_then(|interval| Duration::try_from(interval).ok());
    let interval = interval.filter(|interval| !interval.is_zero()).ok_or_else(|| {
        let message = "rotationInterval is not a duration such as 720h: correct it";
        Error::terminal("InvalidRotationInterval", message)
    })?;
    let lifetime = interval.saturating_sub(staggered(uid, interval / 5));
    let age = age(known, now);
    Ok(if age >= lifetime { Due::Now } else { Due::In(lifetime - age) })
}

/// A part of `most` that is stable for an object and differs between objects.
fn staggered(uid: &str, most: Duration) -> Duration {
    let mut hasher = DefaultHasher::new();
    uid.hash(&mut hasher);
    most.mul_f64(f64::from(u32::try_from(hasher.finish() % 1000).unwrap_or_default()) / 1000.0)
}

/// How long the login has been in use.
pub fn age(credentials: &CredentialsStatus, now: Timestamp) -> Duration {
    ahoi_reconcile::age(&credentials.rotated_at, now)
}

/// The status of credentials that were replaced `now`, as the spec demanded.
pub fn begun(
    wanted: Option<&Credentials>,
    known: Option<&CredentialsStatus>,
    former: Option<String>,
    now: Timestamp,
) -> CredentialsStatus {
    let trigger = wanted.and_then(|wanted| wanted.rotation_trigger.clone());
    CredentialsStatus {
        rotated_at: Time(Timestamp::from_second(now.as_second()).unwrap_or(now)),
        // A trigger that is removed and set again is not new.
        trigger: trigger.or_else(|| known.and_then(|known| known.trigger.clone())),
        previous_login: former,
        lost_secrets: None,
    }
}

/// First delay before a login is replaced again because its Secret was lost once more, and the maximum. By then the former login is
/// closed, unless a client uses it.
const FIRST_DELAY: Duration = Duration::from_secs(150);
const LONGEST_DELAY: Duration = Duration::from_secs(3600);

/// Number of Secrets that were lost in a row until now.
pub fn losses(known: Option<&CredentialsStatus>, now: Timestamp) -> u32 {
    let recent = known.filter(|known| age(known, now) < LONGEST_DELAY);
    recent.and_then(|known| known.lost_secrets).and_then(|losses| u32::try_from(losses).ok()).unwrap_or_default()
}

/// When a login whose Secret is lost may be replaced; none: now. A client that deletes the Secret again and again must not cause a
/// new password each time, nor a new password of a former login that clients still use.
pub fn replaceable_at(known: Option<&CredentialsStatus>, former_is_open: bool, now: Timestamp) -> Option<Timestamp> {
    let known = known?;
    let delay = match losses(Some(known), now) {
        0 if !former_is_open => return None,
        losses => FIRST_DELAY.saturating_mul(1 << losses.saturating_sub(1).min(10)).min(LONGEST_DELAY),
    };
    let at =
        Timestamp::from_second(known.rotated_at.0.as_second() + i64::try_from(delay.as_secs()).unwrap_or(3600)).ok()?;
    (now < at).then_some(at)
}

/// The status of credentials that were replaced by a process that died before it wrote the status. This fulfils no trigger, because
/// the cause is not known: at worst there is one more rotation.
pub fn found(known: Option<&CredentialsStatus>, former: Option<String>, now: Timestamp) -> CredentialsStatus {
    begun(None, known, former, now)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Timestamp {
        "2026-03-01T00:00:00Z".parse().unwrap()
    }

    fn interval(interval: &str) -> Credentials {
        Credentials { rotation_interval: Some(interval.into()), ..Credentials::default() }
    }

    fn trigger(trigger: &str) -> Credentials {
        Credentials { rotation_trigger: Some(trigger.into()), ..Credentials::default() }
    }

    fn since(at: &str) -> CredentialsStatus {
        CredentialsStatus {
            rotated_at: Time(at.parse().unwrap()),
            trigger: Some("one".into()),
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
        assert_eq!((rotated.trigger.as_deref(), rotated.previous_login.as_deref()), (Some("two"), Some("a")));
        let kept = begun(Some(&Credentials::default()), Some(&known), None, now());
        assert_eq!(kept.trigger.as_deref(), Some("one"));
        assert_eq!(found(Some(&known), Some("a".into()), now()).trigger.as_deref(), Some("one"));
    }

    #[test]
    fn lost_secrets_replace_a_login_with_growing_delays() {
        let lost = |losses: i32| CredentialsStatus { lost_secrets: Some(losses), ..since("2026-02-28T23:58:00Z") };
        let seconds = |known: &CredentialsStatus, former| {
            replaceable_at(Some(known), former, now()).map(|at| at.as_second() - known.rotated_at.0.as_second())
        };
        assert_eq!(seconds(&since("2026-02-28T23:58:00Z"), false), None, "the first is replaced at once");
        assert_eq!(
            seconds(&since("2026-02-28T23:58:00Z"), true),
            Some(150),
            "a former login stays open for its clients"
        );
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
}
