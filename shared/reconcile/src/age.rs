//! The age of a timestamp that another machine wrote.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;

/// The time from `since` until `now`; zero if `since` is in the future, because clocks differ.
pub fn age(since: &Time, now: Timestamp) -> Duration {
    Duration::try_from(now.duration_since(since.0)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timestamp_in_the_future_has_no_age() {
        let at = |second| Timestamp::from_second(second).unwrap();
        assert_eq!(age(&Time(at(10)), at(13)), Duration::from_secs(3));
        assert_eq!(age(&Time(at(1000)), at(13)), Duration::ZERO);
    }
}
