//! How long something has been so, by a time that another machine wrote.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;

/// From `since` until `now`; nothing where `since` is still to come: a clock that is behind makes nothing old.
pub fn age(since: &Time, now: Timestamp) -> Duration {
    Duration::try_from(now.duration_since(since.0)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_behind_makes_nothing_old() {
        let at = |second| Timestamp::from_second(second).unwrap();
        assert_eq!(age(&Time(at(10)), at(13)), Duration::from_secs(3));
        assert_eq!(age(&Time(at(1000)), at(13)), Duration::ZERO);
    }
}
