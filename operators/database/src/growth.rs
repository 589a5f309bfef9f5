//! How much a database grows after its storage is used up. Pure.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// How long growth is remembered: a minute, and the time that a measurement may be late.
const WINDOW: Duration = Duration::from_secs(75);
/// Bytes that a database may grow in a minute after its storage is used up.
pub const TOLERATED: i64 = 1024 * 1024;

/// Growth of a database whose storage is used up.
#[derive(Clone, Debug, Default)]
pub struct Growth {
    sizes: VecDeque<(Instant, i64)>,
    /// Size when writes were first refused.
    first: Option<i64>,
    /// Bytes of free space maps and visibility maps: VACUUM writes them, and must not be punished.
    maps: i64,
}

impl Growth {
    /// Starts at this size.
    pub fn from(size: i64, now: Instant) -> Self {
        Growth { sizes: [(now, size)].into(), first: Some(size), maps: 0 }
    }

    /// Records a size.
    pub fn note(&mut self, size: i64, now: Instant) {
        self.first.get_or_insert(size);
        self.sizes.push_back((now, size));
        self.sizes.retain(|(at, _)| now.duration_since(*at) <= WINDOW);
    }

    /// Bytes by which the database has grown within about a minute.
    pub fn bytes(&self) -> i64 {
        let smallest = self.sizes.iter().map(|(_, size)| *size).min();
        let last = self.sizes.back().map(|(_, size)| *size);
        last.zip(smallest).map_or(0, |(last, smallest)| last - smallest)
    }

    /// Whether that is more than tolerated.
    pub fn is_too_much(&self) -> bool {
        self.bytes() > TOLERATED
    }

    /// The same, with what the database itself reports. New maps are no growth, a size may have been a momentary peak, and
    /// VACUUM FULL needs space for its copies: as much again as there was.
    pub fn is_still_too_much(&mut self, size: i64, maps: i64, is_rewriting: bool, now: Instant) -> bool {
        self.note(size, now);
        if is_rewriting && self.first.is_some_and(|first| size < first.saturating_mul(2)) {
            return false;
        }
        let new_maps = (maps - std::mem::replace(&mut self.maps, maps)).max(0);
        let is_too_much = self.bytes() - new_maps > TOLERATED;
        if !is_too_much {
            self.sizes = [(now, size)].into();
        }
        is_too_much
    }
}

#[cfg(test)]
mod tests;
