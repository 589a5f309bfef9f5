//! When a login is replaced by the other one of its pair, and what the status records about it. Pure.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use ahoi_api::{Credentials, CredentialsStatus, Reason};
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
    if wanted.rotation_request.is_some() && wanted.rotation_request != known.rotation_request {
        return Ok(Due::Now);
    }
    let Some(interval) = &wanted.rotation_interval else { return Ok(Due::Never) };
    let interval = interval.parse::<SignedDuration>().ok().and_then(|interval| Duration::try_from(interval).ok());
    let interval = interval.filter(|interval| !interval.is_zero()).ok_or_else(|| {
        let message = "rotationInterval is not a duration such as 720h: correct it";
        Error::terminal(Reason::InvalidRotationInterval, message)
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
    let trigger = wanted.and_then(|wanted| wanted.rotation_request.clone());
    CredentialsStatus {
        rotated_at: Time(Timestamp::from_second(now.as_second()).unwrap_or(now)),
        // A trigger that is removed and set again is not new.
        rotation_request: trigger.or_else(|| known.and_then(|known| known.rotation_request.clone())),
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
mod tests;
