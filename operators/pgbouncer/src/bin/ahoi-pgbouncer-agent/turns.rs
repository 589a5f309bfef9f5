//! The processes of a fleet take turns. While pgbouncer reads its files it serves nobody, and a client that is sent to
//! another process by chance should not find that one doing the same.

use std::time::Duration;

use ahoi_pgbouncer::fleet;

/// So many processes have turns of their own; the next has the first's again.
const TURNS: u32 = 5;
/// A turn, in readings. They take about as long in every process, but do not begin at exactly the same time.
const READINGS: u32 = 4;
/// The last turn begins within 1.4 s whatever reading takes: a new route is served within 2 s.
const LONGEST: Duration = Duration::from_millis(350);

/// When this process's turn is.
#[derive(Debug)]
pub struct Turns {
    number: u32,
    reading: Duration,
}

impl Turns {
    pub fn new(fleet: &str, pod: &str) -> Self {
        let number = fleet::process(fleet, pod).and_then(|(_, number)| u32::try_from(number).ok()).unwrap_or(0);
        Turns { number: number % TURNS, reading: Duration::ZERO }
    }

    /// Remembers how long pgbouncer took to read its files.
    pub fn read(&mut self, took: Duration) {
        // It grows with the number of routes, so the last says most; one that was quick by chance says little.
        self.reading = took.max(self.reading / 2);
    }

    /// How long this process lets others go first.
    pub fn wait(&self) -> Duration {
        (self.reading * READINGS).min(LONGEST) * self.number
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_its_own_and_none_is_late() {
        let wait = |pod: &str, took: u64| {
            let mut turns = Turns::new("global", pod);
            turns.read(Duration::from_millis(took));
            turns.wait().as_millis()
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
    fn a_single_quick_reading_is_not_believed() {
        let mut turns = Turns::new("global", "global-1");
        turns.read(Duration::from_millis(40));
        turns.read(Duration::from_millis(1));
        assert_eq!(turns.wait().as_millis(), 80);
    }
}
