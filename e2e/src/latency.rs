//! How long bookings take, while they are made.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// What every client of a ledger adds to.
#[derive(Clone, Debug, Default)]
pub struct Latencies(Arc<Mutex<Vec<Duration>>>);

impl Latencies {
    pub(crate) fn add(&self, took: Duration) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(took);
    }

    /// How many have been added since they were last taken.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// All that have been added since this was last asked.
    #[must_use]
    pub fn take(&self) -> Percentiles {
        let taken = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        Percentiles::of(taken)
    }
}

/// What is said of many durations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Percentiles {
    /// How many there are.
    pub count: usize,
    /// Half of them take at most this.
    pub p50: Duration,
    /// 99 of 100 take at most this.
    pub p99: Duration,
    /// The longest.
    pub max: Duration,
}

impl Percentiles {
    fn of(mut all: Vec<Duration>) -> Self {
        all.sort_unstable();
        let at = |percent: usize| all.get((all.len() * percent).div_ceil(100).max(1) - 1).copied().unwrap_or_default();
        Percentiles { count: all.len(), p50: at(50), p99: at(99), max: at(100) }
    }
}

impl fmt::Display for Percentiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bookings, p50 {:.1?}, p99 {:.1?}, longest {:.1?}", self.count, self.p50, self.p99, self.max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hundredth_is_the_longest() {
        let all = Latencies::default();
        (1..=100).rev().for_each(|ms| all.add(Duration::from_millis(ms)));
        assert_eq!(all.count(), 100);
        let said = all.take();
        let ms = Duration::from_millis;
        assert_eq!(said, Percentiles { count: 100, p50: ms(50), p99: ms(99), max: ms(100) });
        assert_eq!(all.take(), Percentiles::default());
    }
}
