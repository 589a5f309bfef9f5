//! Staggers the reloads of a fleet's processes. pgbouncer serves no client while it reads its files, so two processes should
//! not read theirs at the same time.

use std::time::Duration;

use ahoi_pgbouncer::fleet;

/// Number of slots; with more processes some share a slot.
const SLOTS: u32 = 5;
/// Length of a slot in reloads. A reload takes about equally long in every process, but does not begin at exactly the same time.
const RELOADS_PER_SLOT: u32 = 4;
/// Maximum length of a slot. The last slot begins within 1.4 s, so that a new route is served within 2 s.
const MAX_SLOT: Duration = Duration::from_millis(350);

/// The slot of this process.
#[derive(Debug)]
pub struct ReloadStagger {
    number: u32,
    reload: Duration,
}

impl ReloadStagger {
    pub fn new(fleet: &str, pod: &str) -> Self {
        let number = fleet::process(fleet, pod).and_then(|(_, number)| u32::try_from(number).ok()).unwrap_or(0);
        ReloadStagger { number: number % SLOTS, reload: Duration::ZERO }
    }

    /// Records the duration of a reload.
    pub fn record(&mut self, took: Duration) {
        // It grows with the number of routes, so the last one counts most; a quick one by chance counts little.
        self.reload = took.max(self.reload / 2);
    }

    /// Time until the slot of this process begins.
    pub fn wait(&self) -> Duration {
        (self.reload * RELOADS_PER_SLOT).min(MAX_SLOT) * self.number
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_have_different_slots_and_none_is_late() {
        let wait = |pod: &str, took: u64| {
            let mut stagger = ReloadStagger::new("global", pod);
            stagger.record(Duration::from_millis(took));
            stagger.wait().as_millis()
        };
        assert_eq!(
            [wait("global-0", 2), wait("global-1", 2), wait("global-2", 2)],
            [0, 8, 16],
            "a small fleet hardly waits"
        );
        assert_eq!([wait("global-4", 500), wait("global-5", 500)], [1400, 0]);
        assert_eq!(wait("another-name", 500), 0);
    }

    #[test]
    fn a_single_quick_reload_hardly_counts() {
        let mut stagger = ReloadStagger::new("global", "global-1");
        stagger.record(Duration::from_millis(40));
        stagger.record(Duration::from_millis(1));
        assert_eq!(stagger.wait().as_millis(), 80);
    }
}
